from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tove_core.publishing.measured import evaluations


def write(run: Path, name: str, model: bytes, scores: Any = None) -> None:
    folder = run / name
    folder.mkdir(parents=True)
    told = {
        "task": "vqa",
        "data": {"sha256": "0" * 64, "samples": 7, "path": "/secret/place/vqa.json", "split": "test"},
        "generation": {"num_beams": 1},
        "model": {"sha256": sha256(model).hexdigest()},
    }
    row = {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 7}}
    (folder / "manifest.json").write_text(json.dumps(told))
    (folder / "scores.json").write_text(json.dumps({"scores": row, "absent": {}} if scores is None else scores))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "tove.json").write_bytes(b"this")
    return tmp_path


def test_evaluations_of_this_checkpoint_are_found_without_places_of_this_machine(run: Path) -> None:
    write(run, "test", b"this")
    (one,) = evaluations(run)
    assert (one.data, one.task, one.samples) == ("vqa.json (test)", "vqa", 7)
    assert [(row.name, row.value, row.low, row.high) for row in one.rows] == [("accuracy", 0.5, 0.25, 0.75)]


def test_those_of_another_model_or_broken_ones_are_none(run: Path) -> None:
    write(run, "other", b"that")
    write(run, "broken", b"this", scores=[1])
    (run / "file").write_text("x")
    assert evaluations(run) == []
    assert evaluations(run / "nothing") == []
