"""What is done next with runs that were merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import ToveModel

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_training_goes_on_from_a_merged_model_with_its_own_clip_and_no_other(
    tove: Tove, run: Path, toy: Any, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    quick = ("--set", "steps=2", "--set", "batch_size=4", "--set", "warmup=1", "--set", "learning_rate=0.01")
    assert tove("merge", run, "--out", merged, *quick).code == 0
    words = ("train", merged / "config.yaml", "--quiet", "--set", f"start={merged}", "--set", "training.steps=1")
    done = tove(*words, "--set", f"output={tmp_path / 'next'}")
    assert done.code == 0, done.err
    before, after = (ToveModel.from_pretrained(place) for place in (merged, tmp_path / "next"))
    assert torch.equal(after.tokens(toy.pictures()), before.tokens(toy.pictures()))
    refused = tove(*words, "--set", f"output={tmp_path / 'other'}", "--set", f"model.clip.name={toy.clip}").error
    inside = merged / "checkpoint" / "frozen" / "clip"
    assert f"its CLIP was trained by merging, so set model.clip.name to local-dir:{inside}" in refused
