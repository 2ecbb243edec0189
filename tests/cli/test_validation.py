"""The loss on held-out samples while a run is trained."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tove_core import ToveModel
from tove_core.config import DataConfig
from tove_core.data.readers import read
from tove_core.evaluation.loss import mean_loss
from tove_core.training.examples import Examples

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_run_measures_its_held_out_loss_and_trains_as_without_it(
    tove: Tove, write: Callable[..., Path], run: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.training import run as runs

    few = toy.data.with_name("held.jsonl")
    few.write_text("".join(f"{line}\n" for line in toy.data.read_text().splitlines()[:7]))
    words = ["--set", f"validation.path={few}", "--set", "training.validate_every=4", "--set", "training.log_every=5"]
    plain = runs.fit
    stop = {"after_step": lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == 3 else None}
    monkeypatch.setattr(runs, "fit", lambda *given, **options: plain(*given, **options, **stop))
    assert tove("train", write(), "--quiet", *words).code == 143
    monkeypatch.setattr(runs, "fit", plain)
    assert tove("train", tmp_path / "run", "--resume").code == 0
    wanted, found = ((folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (run, tmp_path / "run"))
    assert found == wanted
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "val_loss" in line) for line in lines] == [(4, True), (5, False), (6, True)]
    model = ToveModel.from_pretrained(tmp_path / "run")
    loss = mean_loss(model, Examples(model, read(DataConfig(path=few))))
    assert lines[-1]["val_loss"] == pytest.approx(loss, rel=1e-4) and lines[0]["val_loss"] > loss
    refused = tove("train", write(), "--set", "training.validate_every=4").error
    assert "training.validate_every measures on validation data, and there are none" in refused


def test_training_without_what_it_would_measure_on_is_refused(toy: Any) -> None:
    from tove_core.config import TrainingConfig
    from tove_core.errors import ConfigError
    from tove_core.training import fit

    model = toy.build()
    with pytest.raises(ConfigError, match="validate_every is set, but nothing is given to measure on"):
        fit(model, toy.examples(model), TrainingConfig(steps=1, validate_every=1), quiet=True)
