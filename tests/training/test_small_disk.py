from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tove_core.errors import CheckpointError
from tove_core.folders import write_file
from tove_core.training.metrics import MetricsFile, last_step

SCRIPT = Path(__file__).with_name("small_disk.py")


@pytest.fixture(scope="module")
def found(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tove train` says and leaves on a disk of a few pages, in a process with mounts of its own."""
    root = tmp_path_factory.mktemp("small")
    (root / "disk").mkdir()
    gate = {"hidden": 6, "balance_warmup": 1}
    model = {"clip": {"name": toy.clip}, "experts": list(toy.experts), "fusion": {"gate": gate}}
    model |= {"decoder": {"name": toy.decoder}}
    training = {"steps": 24, "batch_size": 5, "warmup": 1, "log_every": 1}
    settings = {"model": model, "data": {"path": str(toy.data)}, "training": training}
    (root / "settings.json").write_text(json.dumps(settings))
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare, which gives a process mounts of its own, is not installed")
    env = os.environ | {"PYTHONPATH": str(toy.site), "OMP_NUM_THREADS": "1"}
    env.pop("TOVE_TRACEBACK", None)
    words = [unshare, "--mount", sys.executable, str(SCRIPT), str(root / "disk"), str(root / "settings.json")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("mounting a small tmpfs needs privileges that this process has not")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def error(one: dict[str, Any]) -> str:
    assert one["code"] == 1 and len(one["err"]) == 1, one
    return one["err"][0]


@pytest.mark.slow
def test_where_the_configuration_finds_no_room_nothing_is_left_behind(found: dict[str, Any]) -> None:
    said = error(found["config"])
    assert said.startswith("error: ") and "config.yaml cannot be written" in said and "No space left" in said
    assert found["config"]["files"] == []


@pytest.mark.slow
def test_where_the_metrics_find_no_room_whole_lines_stay_and_the_run_begins_anew(found: dict[str, Any]) -> None:
    said, steps = error(found["metrics"]), found["metrics"]["steps"]
    assert "metrics.jsonl cannot be written" in said and "No space left" in said and "--resume'" in said
    assert 0 < len(steps) < 24 and steps == list(range(1, len(steps) + 1))
    assert found["metrics"]["files"] == ["config.yaml", "metrics.jsonl"]
    again = found["metrics, again"]
    assert again["code"] == 0 and again["same"] and again["steps"] == list(range(1, 25))
    assert len(again["err"]) == 1 and "begins anew" in again["err"][0] and "save_every" in again["err"][0]


@pytest.mark.slow
def test_where_a_state_finds_no_room_the_run_goes_on_from_the_one_before(found: dict[str, Any]) -> None:
    said = error(found["state"])
    assert "state/step-00000020 cannot be written" in said and "No space left" in said
    states = [name for name in found["state"]["files"] if name.startswith("state")]
    assert states == ["state/step-00000010/state.json", "state/step-00000010/state.safetensors"]
    again = found["state, again"]
    assert again["code"] == 0 and again["same"] and again["steps"] == list(range(1, 25)) and again["err"] == []
    assert again["config"] == found["state"]["config"]


@pytest.mark.slow
def test_where_the_checkpoint_finds_no_room_the_run_can_be_ended_later(found: dict[str, Any]) -> None:
    said = error(found["checkpoint"])
    assert "checkpoint cannot be written" in said and "then end the run with 'tove train" in said
    assert found["checkpoint"]["files"] == ["config.yaml", "metrics.jsonl"]
    assert found["checkpoint, again"]["code"] == 0 and found["checkpoint, again"]["same"]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_file(path, "whole\n")
    (tmp_path / ".config.yaml.tmp").mkdir()  # in the way
    with pytest.raises(CheckpointError, match=r"config\.yaml cannot be written"):
        write_file(path, "other\n")
    assert path.read_text() == "whole\n"


def test_metrics_that_cannot_be_written_or_read_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CheckpointError, match=r"taken cannot be made .* give another folder"):
        MetricsFile(tmp_path / "taken" / "metrics.jsonl")
    file = MetricsFile(tmp_path / "made" / "for it" / "metrics.jsonl")  # whoever calls `fit` need not make it
    file.path.parent.rmdir()
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        file.write(step=1)
    assert "\n" not in str(caught.value)
    file.path.parent.mkdir()
    file.write(step=1, loss=2.0)
    file.write(step=7, loss=1.0)
    with file.path.open("ab") as torn:
        torn.write(b'{"step": 99, "\xff')
    assert last_step(file.path) == 7 and last_step(tmp_path / "none.jsonl") == 0
    MetricsFile(file.path, first_step=3)
    assert file.path.read_text() == '{"step": 1, "loss": 2.0}\n'
