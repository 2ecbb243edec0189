"""A run that goes on normalises features as it did, whatever has become of its data and of what it began with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tove_core import ToveModel
from tove_core.config import RunConfig
from tove_core.errors import CheckpointError
from tove_core.hub.weights import sha256
from tove_core.run_folder import CONFIG, STATE, states
from tove_core.settings import read_config, write_config
from tove_core.training import fit, resume, train
from tove_core.training.state import restore_statistics

pytestmark = pytest.mark.filterwarnings("ignore:.*learning rate never")


def small(toy: Any, output: Path, **changes: Any) -> RunConfig:
    model = {"clip": {"name": toy.clip}, "experts": ["toy-fine"], "decoder": {"name": toy.decoder}}
    training = {"steps": 3, "batch_size": 5, "warmup": 1, "save_every": 3}
    given = {"model": model, "data": {"path": toy.data}, "training": training, "output": output} | changes
    return RunConfig.model_validate(given)


def go_on(folder: Path, steps: int, data: Path | None = None) -> ToveModel:
    """Give a run more steps, and perhaps other data, and go on with it."""
    config = read_config(RunConfig, folder / CONFIG)
    changes: dict[str, Any] = {"training": config.training.model_copy(update={"steps": steps})}
    if data is not None:
        changes["data"] = config.data.model_copy(update={"path": data})
    write_config(config.model_copy(update=changes), folder / CONFIG)
    return resume(folder, quiet=True)


def dark_copy(toy: Any, folder: Path) -> Path:
    """Write the toy data with images a tenth as bright; return its file."""
    folder.mkdir()
    for picture in toy.data.parent.glob("*.png"):
        Image.open(picture).point(lambda value: value // 10).save(folder / picture.name)
    copy = folder / toy.data.name
    copy.write_bytes(toy.data.read_bytes())
    return copy


def statistics(model: ToveModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.align.named_buffers()}


def without_statistics(folder: Path) -> None:
    """Make a run's states those of an older version."""
    for place in states(folder / STATE):
        tensors = place / "state.safetensors"
        kept = {name: value for name, value in load_file(tensors).items() if not name.startswith("align.")}
        save_file(kept, tensors)
        header = json.loads((place / "state.json").read_text()) | {"sha256": sha256(tensors)}
        (place / "state.json").write_text(json.dumps(header))


def test_a_run_that_goes_on_with_other_images_keeps_its_statistics(toy: Any, tmp_path: Path) -> None:
    before = statistics(train(small(toy, tmp_path / "run"), quiet=True))
    model = go_on(tmp_path / "run", 5, dark_copy(toy, tmp_path / "dark"))
    assert before and all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    assert model.calibrated
    saved = ToveModel.from_pretrained(tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in statistics(saved).items())


def test_a_state_of_an_older_version_is_calibrated_anew_with_a_warning(toy: Any, tmp_path: Path) -> None:
    before = statistics(train(small(toy, tmp_path / "run"), quiet=True))
    without_statistics(tmp_path / "run")
    with pytest.warns(UserWarning, match="holds no channel statistics, so that they are measured anew"):
        model = go_on(tmp_path / "run", 4)
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items()), "of the same data"


def test_a_run_goes_on_without_the_checkpoint_it_began_with(toy: Any, tmp_path: Path) -> None:
    first = statistics(train(small(toy, tmp_path / "first"), quiet=True))
    began = small(toy, tmp_path / "second", start=tmp_path / "first", data={"path": dark_copy(toy, tmp_path / "dark")})
    train(began, quiet=True)
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    model = go_on(tmp_path / "second", 5)
    assert all(torch.equal(value, first[name]) for name, value in statistics(model).items()), "those of the start"
    without_statistics(tmp_path / "second")
    with (
        pytest.warns(UserWarning, match="holds no channel statistics"),
        pytest.raises(CheckpointError, match=r"there is no folder .*first"),
    ):
        go_on(tmp_path / "second", 7)


def test_an_expert_without_statistics_needs_none_of_a_state(toy: Any, tmp_path: Path) -> None:
    plain = small(toy, tmp_path / "run")
    model = plain.model.model_copy(update={"experts": small(toy, tmp_path).model.experts[:0]})
    train(plain.model_copy(update={"model": model}), quiet=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*channel statistics.*")
        assert go_on(tmp_path / "run", 4).trained


def test_statistics_of_other_experts_are_refused(toy: Any, tmp_path: Path) -> None:
    train(small(toy, tmp_path), quiet=True)
    other = toy.build([{"name": "toy-fine", "alias": "fine"}])
    with pytest.raises(CheckpointError, match=r"statistics toy-fine\.depth-mean, .* and this one has fine\.depth-mean"):
        restore_statistics(tmp_path / STATE, other.align)


def test_resuming_needs_a_folder(toy: Any) -> None:
    model = toy.build()
    config = small(toy, Path("unused")).training
    with pytest.raises(CheckpointError, match="without output there is no state to resume from"):
        fit(model, toy.examples(model), config, resume=True, quiet=True)
    assert not model.trained
