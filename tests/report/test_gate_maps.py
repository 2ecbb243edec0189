from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tove_core.errors import ConfigError
from tove_core.report.gate_maps import CELL, GAP, HEAD, colours, write_gate_maps


def test_a_picture_has_a_row_per_image_and_a_column_per_expert(toy: Any, tmp_path: Path) -> None:
    model = toy.build(decoder=None)
    path = write_gate_maps(model, toy.pictures(2), tmp_path / "deep" / "maps.png")
    with Image.open(path) as picture:
        assert picture.size == (4 * (CELL + GAP) + GAP, 2 * HEAD + 2 * (CELL + GAP))
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    first = pixels[HEAD : HEAD + CELL, GAP : GAP + CELL]
    # The first toy image is red, the second green.
    assert first[..., 0].mean() > 180 > 80 > first[..., 1].mean()
    second = pixels[HEAD + CELL + GAP : HEAD + 2 * CELL + GAP, GAP : GAP + CELL]
    assert second[..., 1].mean() > 160 > 80 > second[..., 0].mean()


def test_the_scale_goes_from_dark_to_bright_and_stays_inside() -> None:
    shades = colours(np.array([[-1.0, 0.0, 0.3, 0.6, 1.0, 2.0]])).astype(int)
    light = shades.sum(-1)[0]
    assert light[0] == light[1] < light[2] < light[3] < light[4] == light[5]
    assert shades.shape == (1, 6, 3)


def test_a_model_without_gates_makes_no_picture(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no gates"):
        write_gate_maps(toy.build([], decoder=None), toy.pictures(1), tmp_path / "maps.png")
    assert not (tmp_path / "maps.png").exists()


def test_one_image_and_a_path_as_text_will_do(toy: Any, tmp_path: Path) -> None:
    model = toy.build(decoder=None)
    one = write_gate_maps(model, toy.pictures(1)[0], str(tmp_path / "one.png"))
    assert one.read_bytes() == write_gate_maps(model, toy.pictures(1), tmp_path / "list.png").read_bytes()


@pytest.mark.parametrize("name", ["", "maps", "maps.xyz", "maps.psd", None])
def test_what_no_picture_can_be_written_to_is_refused(toy: Any, tmp_path: Path, name: str | None) -> None:
    place = None if name is None else tmp_path / name
    told = "the picture is None" if name is None else r"is no file of a picture; give one that ends in .png"
    with pytest.raises(ConfigError, match=told):
        write_gate_maps(toy.build(decoder=None), toy.pictures(1), place)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
