from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tove_core
from tove_core import ToveModel
from tove_core.config import ClipConfig, DecoderConfig, ModelConfig
from tove_core.errors import ConfigError, WeightsError
from tove_core.licenses import LicensePolicy
from tove_core.places import absolute, with_absolute_places

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")


@pytest.fixture
def parts(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a CLIP, a language model, a projector and an expert's weights in it."""
    place = tmp_path / "made"
    for name in ("clip", "decoder"):
        shutil.copytree(toy.root / name, place / name)
    (place / "weights").mkdir()
    weights = {"conv.weight": torch.full((33, 3, 8, 8), 0.25), "conv.bias": torch.ones(33)}
    save_file(weights, place / "weights" / "toy-wide.safetensors")
    save_file(toy.build().decoder.projector.state_dict(), place / "projector.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(place)
    return place


def built() -> Any:
    decoder = {"name": "decoder", "projector": "projector.safetensors", "max_new_tokens": 5}
    return tove_core.build(["toy-wide"], clip="local-dir:clip", decoder=decoder, weights="weights")


def test_a_checkpoint_made_of_relative_paths_loads_from_elsewhere(
    toy: Any, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built()
    tokens, said = model.tokens(toy.pictures()), model.caption(toy.pictures(2))
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = ToveModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.tokens(toy.pictures()), tokens) and loaded.caption(toy.pictures(2)) == said
    assert loaded.config == model.config and loaded.origin == model.origin
    assert loaded.origin.weights == str(parts / "weights") and loaded.config.clip.name == f"local-dir:{parts / 'clip'}"


def test_a_checkpoint_that_says_relative_paths_loads_where_they_hold_and_says_so_elsewhere(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built()
    folder = model.save_pretrained(tmp_path / "saved")
    manifest = folder / "tove.json"
    relative = manifest.read_text().replace(f"{parts}/", "")
    manifest.write_text(relative)
    healed = ToveModel.from_pretrained(folder)
    assert healed.config == model.config and healed.origin == model.origin
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"'clip' does not exist in the working directory {tmp_path / 'elsewhere'}"):
        ToveModel.from_pretrained(folder)
    manifest.write_text(relative.replace("local-dir:clip", f"local-dir:{parts / 'clip'}"))
    with pytest.raises(WeightsError, match=r"no folder weights in the working directory .*elsewhere"):
        ToveModel.from_pretrained(folder)
    manifest.write_text(manifest.read_text().replace('"weights": "weights"', f'"weights": "{parts / "weights"}"'))
    with pytest.raises(ConfigError, match=r"'decoder' is neither a folder nor a hub id in the working directory"):
        ToveModel.from_pretrained(folder)


def test_only_what_lies_there_is_made_absolute(parts: Path) -> None:
    assert absolute("weights") == str(parts / "weights") and absolute("./weights") == str(parts / "weights")
    for text in ("", "owner/name", "package:tove_core.demo/assets/lm", "~/x", str(parts), "pinned"):
        assert absolute(text) == text
    named = ModelConfig(clip=ClipConfig(name="ViT-B-16/openai"), decoder=DecoderConfig(name="owner/name"))
    assert with_absolute_places(named) == named


def test_a_policy_that_knows_a_folder_by_its_relative_path_still_does(parts: Path) -> None:
    policy = LicensePolicy(commercial=True, allow=("local-dir:clip",))
    given = ModelConfig(clip=ClipConfig(name="local-dir:clip"), decoder=None, licenses=policy)
    found = with_absolute_places(given)
    assert found.licenses is not None and found.clip.name in found.licenses.allow
