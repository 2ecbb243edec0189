"""The README's code does what the README says; names that need a download are replaced by the world's."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import tove_core
from tove_core import plugins
from tove_core.demo.world import ASSETS, decoder
from tove_core.testing import run_checks

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


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the plugin of the README: each block goes where its first line says, and its entry point is recorded."""
    places = re.findall(r"```(?:python|toml)\n# (\S+): [^\n]*\n(.*?)```", README, re.DOTALL)
    for place, text in places:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    described = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    info = tmp_path / "src" / "tove_expert_resnet-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tove-expert-resnet\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in described["project"]["entry-points"]["tove"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[tove]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    plugins.registry.cache_clear()
    yield tmp_path
    plugins.registry.cache_clear()
    for name in [name for name in sys.modules if name.startswith("tove_expert_resnet")]:
        del sys.modules[name]


def test_the_plugin_shown_is_found_conforms_and_gives_what_it_declares(plugin: Path) -> None:
    assert sorted(str(path.relative_to(plugin)) for path in plugin.rglob("*.py")) == [
        "src/tove_expert_resnet/adapter.py",
        "src/tove_expert_resnet/hooks.py",
    ]
    results = list(run_checks("my-resnet"))
    assert {result.check.id: result.detail for result in results if not result.ok} == {}
    assert sum(result.status == "passed" for result in results) > 15


def test_the_plugin_shown_takes_the_weights_that_timm_publishes(plugin: Path) -> None:
    published = timm.create_model("resnet18", pretrained=False)
    save_file(published.state_dict(), plugin / "my-resnet.safetensors")
    model = tove_core.build(experts=["my-resnet"], clip=f"{ASSETS}/clip", decoder=None, weights=plugin)
    assert model.encode([Image.new("RGB", (37, 51), "red")])["my-resnet"].shape == (1, 36, 512)
    pixels = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        features = published.eval().forward_features(pixels)
    assert torch.equal(model.experts["my-resnet"](pixels)["features"], features)


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from tove_core.cli.main import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    (shown,) = re.findall(r"^```\n(tove .*?)^```$", README, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^tove ([a-z]+)", shown, re.MULTILINE)
    assert len(named) >= 7 and set(named) <= set(known)
