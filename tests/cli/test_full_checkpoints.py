"""What is made from a run whose checkpoint holds the frozen parts holds them too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import ToveModel

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    "words",
    [
        ("detach", "toy-wide"),
        ("select", "--budget", 0.5, "--steps", 1, "--train", "--quiet"),
        ("train", "--add", "toy-whole:large", "--set", "training.steps=1", "--quiet"),
    ],
    ids=lambda words: words[0],
)
def test_a_full_checkpoint_stays_full(words: tuple[Any, ...], run: Path, tove: Tove, toy: Any, tmp_path: Path) -> None:
    model = ToveModel.from_pretrained(run)
    with torch.no_grad():  # such as is found nowhere else
        next(model.tower.vision.parameters()).mul_(1.5)
    model.save_pretrained(tmp_path / "whole" / "checkpoint", full=True)
    shutil.copy(run / "config.yaml", tmp_path / "whole")
    command, *options = words
    done = tove(command, tmp_path / "whole", *options, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    made = ToveModel.from_pretrained(tmp_path / "out")
    made.selecting = False
    for name in set(model.experts) ^ set(made.experts):
        (model if name in model.experts else made).detach(name)
    assert torch.equal(made.tokens(toy.pictures()), model.tokens(toy.pictures()))
