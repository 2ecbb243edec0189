"""Unreadable images, which no cache can hold, and commands that read one all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def damaged(tove: Tove, toy: Any, tmp_path: Path) -> Path:
    """A configuration whose data have one broken image of twelve, and a cache of the others beside it."""
    shutil.copytree(toy.data.parent, tmp_path / "data")
    (tmp_path / "data" / "5.png").write_bytes(b"no image")
    model = {"clip": {"name": toy.clip}, "experts": ["toy-fine"], "decoder": {"name": toy.decoder, "max_new_tokens": 3}}
    training = {"steps": 2, "batch_size": 4, "warmup": 1, "cache": str(tmp_path / "cache")}
    data = {"path": str(tmp_path / "data" / "toy.jsonl"), "max_broken": 0.1}
    whole = {"model": model, "data": data, "training": training, "output": str(tmp_path / "run")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(whole))
    built = tove("cache", "build", tmp_path / "run.yaml", "--out", tmp_path / "cache", "--quiet")
    assert built.code == 1 and "1 images could not be read" in built.err
    return tmp_path


def test_a_run_is_trained_and_diagnosed_from_a_cache_without_the_broken_image(damaged: Path, tove: Tove) -> None:
    trained = tove("train", damaged / "run.yaml")
    assert trained.code == 0 and f"features are read from {damaged / 'cache'}" in trained.err, trained.err
    assert "(1 of 12 images so far are left out)" in trained.err
    scored = tove("evaluate", damaged / "run")
    assert scored.code == 0 and "features are read from" in scored.err and "left out" in scored.err
    shown = tove("diagnose", damaged / "run", "--out", damaged / "page")
    assert shown.code == 0 and "features are read from" in shown.err, shown.err
    figures = json.loads((damaged / "page" / "diagnosis.json").read_text())
    assert figures["left_out"] == 1


def test_an_evaluation_that_is_kept_has_no_smaller_denominator(damaged: Path, tove: Tove) -> None:
    assert tove("train", damaged / "run.yaml").code == 0
    lines = (damaged / "data" / "toy.jsonl").read_text().splitlines()
    asked = damaged / "data" / "asked.jsonl"
    asked.write_text("\n".join(line for line in lines if "question" in line))
    lost = tove("evaluate", damaged / "run", "--data", asked, "--out", damaged / "scores")
    assert lost.code == 1 and "1 of 8 images cannot be used" in lost.error
    assert not (damaged / "scores" / "scores.json").exists()


def test_a_readable_image_that_the_cache_lacks_is_no_excuse(damaged: Path, toy: Any, tove: Tove) -> None:
    shutil.copy(toy.data.parent / "1.png", damaged / "data" / "5.png")
    (damaged / "data" / "5.png").write_bytes((damaged / "data" / "5.png").read_bytes() + b"another file")
    found = tove("train", damaged / "run.yaml")
    assert found.code == 1 and "feature 'clip' of 1 of 12 images is not in" in found.error


def test_more_broken_images_than_the_data_allow_are_refused(damaged: Path, tove: Tove) -> None:
    found = tove("train", damaged / "run.yaml", "--set", "data.max_broken=0.05")
    assert found.code == 1 and "feature 'clip' of 1 of 12 images is not in" in found.error
