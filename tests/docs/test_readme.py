"""The README's code does what the README says; names that need a download are replaced by the world's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tove_core
from tove_core.demo.world import ASSETS, decoder

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_model_is_built_and_used_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (37, 51), "red").save("photo.jpg")
    shown = blocks()[0]
    plain = shown.replace('build(experts=["dinov2"])', "build(**local)").replace('"dinov2"', '"world-centre"')
    assert plain.count("local") == 1 and "dinov2" not in plain.replace("# ViT", "")
    local = {"experts": ["world-centre"], "clip": f"{ASSETS}/clip", "decoder": decoder()}
    names: dict[str, Any] = {"local": local}
    exec(plain, names)
    model = names["model"]
    assert names["tokens"].shape == (1, 36, 96) and list(names["maps"]) == ["world-centre"]
    assert model.tokens(["photo.jpg"]).equal(model.encode(["photo.jpg"])["clip"]), "detached: CLIP's own tokens"


def test_the_plugin_shown_is_a_plugin() -> None:
    names: dict[str, Any] = {}
    exec(blocks()[1], names)
    (spec,) = names["tove_experts"]()
    assert isinstance(spec, tove_core.ExpertSpec) and spec.name == "sam"


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from tove_core.cli.main import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    named = re.findall(r"^tove ([a-z]+)", README, re.MULTILINE)
    assert len(named) >= 7 and set(named) <= set(known)
