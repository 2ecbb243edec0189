"""Unreadable images, which no cache can hold, and commands that read one all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def configure(folder: Path, toy: Any, data: dict[str, Any]) -> None:
    """Write `run.yaml` for a run on these data, which reads its features from `cache` beside it."""
    model = {"clip": {"name": toy.clip}, "experts": ["toy-fine"], "decoder": {"name": toy.decoder, "max_new_tokens": 3}}
    training = {"steps": 2, "batch_size": 4, "warmup": 1, "cache": str(folder / "cache")}
    whole = {"model": model, "data": data | {"max_broken": 0.1}, "training": training, "output": str(folder / "run")}
    (folder / "run.yaml").write_text(yaml.safe_dump(whole))


@pytest.fixture
def damaged(tove: Tove, toy: Any, tmp_path: Path) -> Path:
    """A configuration whose data have one broken image of twelve, and a cache of the others beside it."""
    shutil.copytree(toy.data.parent, tmp_path / "data")
    (tmp_path / "data" / "5.png").write_bytes(b"no image")
    configure(tmp_path, toy, {"path": str(tmp_path / "data" / "toy.jsonl")})
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
    assert found.code == 1 and "1 of 12 images cannot be used, more than data.max_broken (0.05) allows" in found.error


def strips(folder: Path) -> dict[str, Any]:
    """Write 12 strips of three boxes in NLVR's layout, one of them without a byte."""
    pictures, lines = folder / "test" / "images" / "0", []
    pictures.mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (44, 11), (20 * number, 90, 7)).save(pictures / f"test-{number}-0-0.png")
        said = "true" if number % 2 else "false"
        lines.append({"identifier": f"{number}-0", "sentence": "it is black", "label": said, "directory": "0"})
    (pictures / "test-5-0-0.png").write_bytes(b"")
    (folder / "test.json").write_text("\n".join(map(json.dumps, lines)))
    return {"reader": "nlvr", "path": str(folder), "split": "test", "options": {"permutations": 1}}


def tiles(folder: Path, toy: Any) -> dict[str, Any]:
    """Copy the toy data, one image of twelve without a byte; each is seen with its four tiles."""
    shutil.copytree(toy.data.parent, folder)
    (folder / "5.png").write_bytes(b"")
    return {"path": str(folder / "toy.jsonl"), "tiles": 2}


@pytest.mark.parametrize(
    ("kind", "lost", "first"), [("strips", "3 of 36", "test-5-0-0.png is empty"), ("tiles", "5 of 60", "/5.png")]
)
def test_a_broken_image_that_is_seen_in_parts_is_left_out_as_without_a_cache(
    tove: Tove, toy: Any, tmp_path: Path, kind: str, lost: str, first: str
) -> None:
    data = strips(tmp_path / "data") if kind == "strips" else tiles(tmp_path / "data", toy)
    configure(tmp_path, toy, data)
    built = tove("cache", "build", tmp_path / "run.yaml", "--out", tmp_path / "cache", "--quiet")
    assert built.code == 1 and f"{lost[0]} images could not be read" in built.err
    kept = tove("train", tmp_path / "run.yaml", "--set", "training.cache=true", "--set", f"output={tmp_path / 'kept'}")
    trained = tove("train", tmp_path / "run.yaml")
    assert trained.code == 0 and f"features are read from {tmp_path / 'cache'}" in trained.err, trained.err
    for done in (kept, trained):
        assert done.code == 0 and f"({lost} images so far are left out)" in done.err, done.err
    scored = tove("evaluate", tmp_path / "run", "--cache", tmp_path / "cache")
    assert scored.code == 0 and f"({lost} images so far are left out)" in scored.err, scored.err
    refused = tove(
        "train", tmp_path / "run.yaml", "--set", "data.max_broken=0.05", "--set", f"output={tmp_path / 'other'}"
    )
    # It stops at the first image that is one too many: 1 of 36 is within, 2 are not, 3 of 60 are, 4 are not.
    most = {"strips": "2 of 36", "tiles": "4 of 60"}[kind]
    assert refused.code == 1 and f"{most} images cannot be used, more than data.max_broken" in refused.error
    assert first in refused.error
