from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tove_core.config import RunConfig
from tove_core.errors import CheckpointError
from tove_core.model import ToveModel
from tove_core.run_folder import STATE
from tove_core.settings import write_config
from tove_core.training import resume, train
from tove_core.training.finished import FINISHED, finished_steps


def run(toy: Any, folder: Path, **training: Any) -> RunConfig:
    decoder = {"name": toy.decoder, "max_new_tokens": 5}
    model = {"clip": {"name": toy.clip}, "experts": list(toy.experts), "decoder": decoder}
    steps = {"steps": 3, "batch_size": 5, "warmup": 1, "log_every": 1} | training
    parts = {"model": model, "data": {"path": str(toy.data)}, "training": steps, "output": str(folder)}
    return RunConfig.model_validate(parts)


def test_more_steps_whose_model_could_not_be_written_are_not_taken_for_the_finished_run(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run(toy, tmp_path, save_every=2), quiet=True)
    write_config(run(toy, tmp_path, save_every=2, steps=5), tmp_path / "config.yaml")

    def full(*_: Any, **__: Any) -> None:
        raise CheckpointError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ToveModel, "save_pretrained", full)
        with pytest.raises(CheckpointError, match="no room; then end the run with 'tove train"):
            resume(tmp_path, quiet=True)
    written = tmp_path / "checkpoint" / "model.safetensors"
    before = written.read_bytes()
    resume(tmp_path, quiet=True)
    assert written.read_bytes() != before and finished_steps(tmp_path) == 5
    with pytest.raises(CheckpointError, match="is finished"):
        resume(tmp_path, quiet=True)


def test_runs_of_older_versions_are_as_far_as_their_metrics(toy: Any, tmp_path: Path) -> None:
    train(run(toy, tmp_path, save_every=2), quiet=True)
    (tmp_path / STATE / FINISHED).unlink()
    assert finished_steps(tmp_path) == 3
    with pytest.raises(CheckpointError, match="is finished"):
        resume(tmp_path, quiet=True)


def test_a_run_without_states_keeps_no_note(toy: Any, tmp_path: Path) -> None:
    train(run(toy, tmp_path), quiet=True)
    assert not (tmp_path / STATE).exists()


def test_a_run_that_has_gone_further_than_its_configuration_says_is_not_ended_with_that_model(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise CheckpointError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ToveModel, "save_pretrained", full)
        with pytest.raises(CheckpointError, match="no room"):
            train(run(toy, tmp_path, save_every=2, steps=5), quiet=True)
    write_config(run(toy, tmp_path, save_every=2, steps=3), tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match=r"has gone 4 steps, and training\.steps in its config\.yaml says 3; set"):
        resume(tmp_path, quiet=True)
    assert not (tmp_path / "checkpoint").exists()
