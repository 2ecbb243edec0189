from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tove_core.data import decoded as decoding
from tove_core.data.broken import try_image
from tove_core.data.decoded import Recent
from tove_core.data.images import ImageFolder
from tove_core.data.parts import tiled
from tove_core.data.sample import load_image
from tove_core.errors import ImageError
from tove_core.hub.images import read_image


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    draw = torch.Generator().manual_seed(1)
    paths = [tmp_path / f"{name}.png" for name in range(3)]
    for path in paths:
        Image.fromarray(torch.randint(256, (11, 7, 3), generator=draw, dtype=torch.uint8).numpy()).save(path)
    return paths


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is decoded for parts, from now on; nothing is kept of before."""
    seen: list[Any] = []
    monkeypatch.setattr(decoding, "_KEPT", Recent(8, 1 << 20))
    monkeypatch.setattr(decoding, "read_image", lambda source: seen.append(source) or read_image(source))
    return seen


def test_tiles_decode_their_image_once_in_any_number_of_threads(photos: list[Path], counts: list[Any]) -> None:
    kinds = [*photos[:2], ImageFolder(photos[0].parent).find("2.png")]
    images = tiled(tuple(kinds), 3)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda one: try_image(one)[0], images))
    assert len(images) == 30 and sorted(map(str, counts)) == sorted(map(str, photos))
    for place, path in enumerate(photos):
        whole, *parts = found[place * 10 : place * 10 + 10]
        assert torch.equal(whole, read_image(path))
        rows = [torch.cat(parts[k : k + 3], 2) for k in (0, 3, 6)]
        assert torch.equal(torch.cat(rows, 1), whole)


def test_a_file_that_changed_or_could_not_be_read_is_read_again(photos: list[Path], counts: list[Any]) -> None:
    part = tiled((photos[0],), 2)[1]
    before = load_image(part)
    photos[1].replace(photos[0])
    os.utime(photos[0], ns=(1, 1))
    assert not torch.equal(load_image(part), before)
    photos[0].write_text("no image")
    for _ in range(2):
        with pytest.raises(ImageError):
            load_image(part)
    assert len(counts) == 4
    photos[0].unlink()
    with pytest.raises(ImageError, match=r"0\.png cannot be read"):
        load_image(part)


def test_images_in_memory_are_not_kept(counts: list[Any]) -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    part = tiled((image,), 2)[1]
    assert not load_image(part).any()
    image += 9
    assert (load_image(part) == 9).all()


def test_the_oldest_are_forgotten_by_number_and_by_size() -> None:
    made: list[str] = []

    def get(kept: Recent, name: str, size: int) -> None:
        kept.get(name, lambda: made.append(name) or torch.zeros(size, dtype=torch.uint8))

    few = Recent(2, 100)
    for name in "abacab":
        get(few, name, 1)
    assert made == [*"abc", "b"], "b was the oldest when c came"
    made.clear()
    small = Recent(9, 10)
    for name, size in (("a", 4), ("b", 4), ("c", 4), ("b", 4), ("d", 99), ("d", 99), ("a", 4)):
        get(small, name, size)
    assert made == ["a", "b", "c", "d", "a"], "the last one is kept whatever its size"
