"""Checkpoints by reference on another machine, after the `main` of what they refer to has moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load, load_file, save

import tove_core
from tove_core import ToveModel, plugins
from tove_core.errors import CheckpointError, WeightsError
from tove_core.hub.lock import Lock, pins_once_accepted
from tove_core.hub.parts import at_commits, commits_of
from tove_core.spec import Weights

A, B = "a" * 40, "b" * 40
PLACES = {"owner/language": "decoder", "owner/clip": "clip"}


def files(folder: Path, added: float = 0.0) -> dict[str, bytes]:
    """Return a folder's files, the weights changed by `added`."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in [name for name in found if name.endswith(".safetensors")]:
        tensors = {key: tensor + added for key, tensor in load_file(folder / name).items()}
        found[name] = save(tensors, {"format": "pt"})
    return found


def expert(seed: int) -> bytes:
    draw = torch.Generator().manual_seed(seed)
    state = {"conv.weight": torch.randn(5, 3, 4, 4, generator=draw), "conv.bias": torch.randn(5, generator=draw)}
    norm = {"norm.weight": torch.rand(5, generator=draw), "norm.bias": torch.rand(5, generator=draw)}
    counted = {"norm.running_mean": torch.zeros(5), "norm.running_var": torch.ones(5)}
    return save(state | norm | counted | {"norm.num_batches_tracked": torch.tensor(3)})


@pytest.fixture
def registered(make_spec: Any) -> Iterator[Any]:
    """Give `registered(weights)`: an expert of this process with those weights."""
    yield lambda weights: tove_core.register(make_spec("hubbed", weights=weights))
    plugins.registry.cache_clear()


class Cache:
    """The hub's cache with a CLIP, a language model and an expert, each at commit A, and offline."""

    def __init__(self, folder: Path, toy: Any) -> None:
        self.folder, self.toy = folder, toy
        self.put(A, 0.0, 1)

    def put(self, commit: str, added: float, seed: int) -> None:
        """Write every repository at a commit, and make that its `main`."""
        offered = {repo: files(self.toy.root / place, added) for repo, place in PLACES.items()}
        for repo, content in (offered | {"owner/expert": {"model.safetensors": expert(seed)}}).items():
            place = self.folder / f"models--{repo.replace('/', '--')}"
            (place / "snapshots" / commit).mkdir(parents=True)
            for name, data in content.items():
                (place / "snapshots" / commit / name).write_bytes(data)
            (place / "refs").mkdir(exist_ok=True)
            (place / "refs" / "main").write_text(commit)

    def move(self) -> None:
        """Move the `main` of each to commit B, where all weights are others."""
        self.put(B, 0.25, 2)


@pytest.fixture
def moving(cache: Path, toy_parts: Any, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))  # transformers reads these two there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return Cache(cache, toy_parts)


def built(**changes: Any) -> Any:
    return tove_core.build(
        ["hubbed"], clip="hf-hub:owner/clip", decoder={"name": "owner/language", "max_new_tokens": 4}, **changes
    )


def another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "another"))


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 37, 53, generator=torch.Generator().manual_seed(3))


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_every_part_is_taken_at_the_commit_that_was_recorded(
    moving: Cache, registered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(Weights(repo="owner/expert", license="MIT"))
    model = built()
    parts = model.provenance
    assert parts.experts["hubbed"].commits == {"owner/expert": A}
    assert {parts.experts["hubbed"].revision, parts.clip.revision, parts.decoder.revision} == {A}
    tokens = model.tokens(pixels())
    said = model.caption(pixels())
    model.save_pretrained(tmp_path / "saved")
    moving.move()
    another_machine(monkeypatch, tmp_path)
    loaded = ToveModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.tokens(pixels()), tokens) and loaded.caption(pixels()) == said
    assert Lock().pins() == {}  # what a checkpoint states is not what this machine has chosen
    again = ToveModel.from_pretrained(loaded.save_pretrained(tmp_path / "again"))
    assert again.provenance == model.provenance
    assert torch.equal(built().experts["hubbed"].module.conv.bias, load_bias(2))


def load_bias(seed: int) -> torch.Tensor:
    return load(expert(seed))["conv.bias"]


def without_commits(folder: Path) -> None:
    """Make a checkpoint one that was saved before commits of experts and CLIP were recorded."""
    manifest = json.loads((folder / "tove.json").read_text())
    parts = manifest["provenance"]
    del parts["clip"]["revision"]
    for one in parts["experts"].values():
        del one["revision"], one["commits"]
    (folder / "tove.json").write_text(json.dumps(manifest))


def test_a_checkpoint_without_commits_loads_while_main_stays_and_what_is_refused_pins_nothing(
    moving: Cache, registered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(Weights(repo="owner/expert", license="MIT"))
    tove_core.build([], clip="hf-hub:owner/clip", decoder=None).save_pretrained(tmp_path / "clip")
    built().save_pretrained(tmp_path / "saved")
    for name in ("clip", "saved"):
        without_commits(tmp_path / name)
    another_machine(monkeypatch, tmp_path)
    ToveModel.from_pretrained(tmp_path / "saved")
    assert Lock().pins() == {"owner/clip": A, "owner/expert": A}
    moving.move()
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "third"))
    with pytest.raises(CheckpointError, match=r"clip: weights .* where .* was recorded"):
        ToveModel.from_pretrained(tmp_path / "clip")
    with pytest.raises(WeightsError, match=r"name the commit of owner/expert .* in commits of the tove\.json"):
        ToveModel.from_pretrained(tmp_path / "saved")
    assert Lock().pins() == {}
    # What the message says to do really helps.
    manifest = json.loads((tmp_path / "saved" / "tove.json").read_text())
    manifest["provenance"]["experts"]["hubbed"]["commits"] = {"owner/expert": A}
    manifest["provenance"]["clip"]["revision"] = A
    (tmp_path / "saved" / "tove.json").write_text(json.dumps(manifest))
    ToveModel.from_pretrained(tmp_path / "saved")


def test_the_recorded_commit_beats_the_one_a_newer_spec_states(
    moving: Cache, registered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(Weights(repo="owner/expert", revision=A, license="MIT"))
    folder = tove_core.build(["hubbed"], clip="hf-hub:owner/clip", decoder=None).save_pretrained(tmp_path / "saved")
    moving.move()
    registered(Weights(repo="owner/expert", revision=B, license="MIT"))
    with pytest.warns(UserWarning, match="registered with another spec"):
        loaded: Any = ToveModel.from_pretrained(folder)
    assert torch.equal(loaded.experts["hubbed"].module.conv.bias, load(expert(1))["conv.bias"])


def test_commits_are_known_by_repository(make_spec: Any, lock: Lock) -> None:
    part = Weights(repo="o/part", revision=A, license="MIT")
    twice = {"one": Weights(repo="o/two", revision=A, license="MIT"), "two": Weights(repo="o/two", license="MIT")}
    weights = Weights(repo="o/main", license="MIT", more={"part": part, **twice})
    lock.record_pin("o/main", B)
    lock.record_pin("o/two", B)
    spec = make_spec(weights=weights)
    assert commits_of(spec, lock=lock) == {"o/main": B, "o/part": A}
    assert commits_of(spec, "random", lock) == commits_of(spec, Path("folder"), lock) == {}
    held = at_commits(spec, {"o/main": A, "o/part": B, "o/gone": B}).weights
    assert held is not None and {key: file.revision for key, file in held.files().items()} == {
        "": A, "part": B, "one": A, "two": None,
    }  # fmt: skip


def test_pins_of_a_block_that_fails_are_forgotten_and_hold_inside_it(lock: Lock) -> None:
    def pin(fail: bool) -> None:
        with pins_once_accepted():
            assert lock.record_pin("o/n", A) == A == lock.record_pin("o/n", B) == lock.pin("o/n")
            if fail:
                raise WeightsError("other weights")

    with pytest.raises(WeightsError, match="other weights"):
        pin(fail=True)
    assert lock.pin("o/n") is None and not lock.path.exists()
    pin(fail=False)
    assert Lock(lock.path).pins() == {"o/n": A}
    with pins_once_accepted({"o/n": B, "o/held": A}):
        assert lock.pin("o/n") == B and lock.record_pin("o/held", B) == A
    assert lock.pin("o/n") == A and Lock(lock.path).pins() == {"o/n": A}
