from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from tove_core.errors import WeightsError
from tove_core.hub.load import load_expert
from tove_core.hub.parts import digest_of, locate_files, read_files
from tove_core.spec import ExpertSpec, Weights

MakeSpec = Callable[..., ExpertSpec]
MODULE = """
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.eye, self.reader = nn.Linear(3, 2), nn.Linear(4, 1)

def build(ctx):
    return Two()

def under_eye(state):
    return {key if key.startswith("reader.") else f"eye.{key}": value for key, value in state.items()}
"""


def weights(**more: Any) -> Weights:
    part = Weights(repo="some/reader", license="MIT")
    return Weights(repo="some/eye", license="MIT", **{"more": {"reader": part}} | more)


@pytest.fixture
def spec(make_spec: MakeSpec, write_module: Callable[[str, str], None]) -> ExpertSpec:
    write_module("two_networks", MODULE)
    return make_spec(name="two", factory="two_networks:build", convert="two_networks:under_eye", weights=weights())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "weights"
    place.mkdir()
    save_file({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, place / "two.safetensors")
    save_file({"weight": torch.full((1, 4), 2.0), "bias": torch.ones(1)}, place / "two-reader.safetensors")
    return place


def test_tensors_of_further_files_carry_their_name(spec: ExpertSpec, folder: Path) -> None:
    files = locate_files(spec, folder)
    assert {key: path.name for key, path in files.items()} == {
        "": "two.safetensors",
        "reader": "two-reader.safetensors",
    }
    assert sorted(read_files(files)) == ["bias", "reader.bias", "reader.weight", "weight"]


def test_an_expert_of_two_files_is_loaded_and_its_hash_covers_both(spec: ExpertSpec, folder: Path) -> None:
    expert, digest = load_expert(spec, name="mine", weights=folder)
    assert expert.module.eye.weight.sum() == 6 and expert.module.reader.weight.sum() == 8  # type: ignore[union-attr, operator]
    each = [hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest() for name in ("two", "two-reader")]
    assert digest == hashlib.sha256("".join(each).encode()).hexdigest()
    again, _ = load_expert(spec, name="mine", weights=folder, expected_sha256=digest)
    assert torch.equal(again.module.reader.bias, torch.ones(1))  # type: ignore[union-attr, arg-type]


def test_a_checkpoint_notices_that_either_file_changed(spec: ExpertSpec, folder: Path) -> None:
    _, digest = load_expert(spec, name="mine", weights=folder)
    save_file({"weight": torch.zeros(1, 4), "bias": torch.ones(1)}, folder / "two-reader.safetensors")
    with pytest.raises(WeightsError, match=r"'two' have sha256 .* together; the checkpoint says"):
        load_expert(spec, name="mine", weights=folder, expected_sha256=digest)


def test_each_file_is_held_to_its_own_hash(make_spec: MakeSpec, folder: Path) -> None:
    part = Weights(repo="some/reader", license="MIT", sha256="0" * 64)
    with pytest.raises(WeightsError, match="sha256"):
        locate_files(make_spec(name="two", weights=weights(more={"reader": part})), folder)


def test_one_file_is_what_it_was(make_spec: MakeSpec, folder: Path) -> None:
    one = make_spec(name="two", weights=Weights(repo="some/eye", license="MIT"))
    files = locate_files(one, folder)
    assert digest_of(files) == hashlib.sha256((folder / "two.safetensors").read_bytes()).hexdigest()
    assert locate_files(one, "random") == {} and digest_of({}) is None
    assert locate_files(make_spec(name="two", weights=weights()), "random") == {}


def test_files_lie_side_by_side() -> None:
    assert list(weights().files()) == ["", "reader"]
    with pytest.raises(ValidationError, match="list all files side by side"):
        Weights(repo="some/other", license="MIT", more={"both": weights()})
