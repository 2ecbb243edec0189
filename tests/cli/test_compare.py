from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tove_core.config import RunConfig
from tove_core.settings import write_config

Tove = Callable[..., Any]


def run(folder: Path, losses: list[float], **changes: Any) -> Path:
    folder.mkdir()
    text = {"model": {"experts": ["depth"]}, "output": str(folder)} | changes
    write_config(RunConfig.model_validate(text), folder / "config.yaml")
    lines = [json.dumps({"step": 5 * (n + 1), "loss": loss, "gate": {"depth": 0.4}}) for n, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def rows(text: str) -> dict[str, list[str]]:
    cells = [re.split(r" {2,}", line) for line in text.splitlines() if "  " in line]
    return {row[0]: row[1:] for row in cells}


def test_differences_and_metrics_stand_side_by_side(tove: Tove, tmp_path: Path) -> None:
    first = run(tmp_path / "a", [3.0, 1.5, 2.25])
    changed = {"training": {"learning_rate": 0.01}, "model": {"experts": [{"name": "depth", "dtype": "float16"}]}}
    second = run(tmp_path / "b", [3.0, 2.5], **changed)
    done = tove("runs", "compare", first, second)
    found = rows(done.out)
    assert done.code == 0
    assert found["training.learning_rate"] == ["0.001", "0.01"]
    assert found["model.experts.depth.dtype"] == ["float32", "float16"]
    assert "seed" not in found and "output" not in found
    assert found["loss"] == ["2.25", "2.5"] and found["loss, lowest"] == ["1.5", "2.5"]
    assert found["step"] == ["15", "10"] and found["gate.depth"] == ["0.4", "0.4"]
    told = json.loads(tove("runs", "compare", first, second, "--json").out)
    assert told["runs"] == [str(first), str(second)] and "seed" not in told["configuration"]
    assert told["configuration"]["training.learning_rate"] == [0.001, 0.01]
    assert told["metrics"]["loss, lowest"] == [1.5, 2.5]


def test_runs_with_long_names_and_values_are_told_apart(tove: Tove, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    first, second = (tmp_path / f"{'long' * 12}-{n}" for n in (0, 1))
    for folder in (first, second):
        run(folder, [3.0], data={"path": f"{folder}.jsonl"})
    done = tove("runs", "compare", first, second)
    assert done.code == 0 and done.out.startswith(f"A: {first}\nB: {second}\n") and done.out.isascii()
    assert rows(done.out)["data.path"] == [f"{first}.jsonl", f"{second}.jsonl"]


def test_runs_that_were_told_the_same_and_one_that_was_killed(tove: Tove, tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", [3.0]), run(tmp_path / "b", [])
    (second / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0}\n{"step": 10, "lo')
    done = tove("runs", "compare", first, second)
    assert "the configurations are the same" in done.out and rows(done.out)["loss"] == ["3", "2"]


def test_lines_that_hold_no_metrics_are_left_out_and_told(tove: Tove, tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", [3.0]), run(tmp_path / "b", [])
    lines = [b'{"step": 5, "loss": 2.0}', b'{"step": 10, "lo', b"null", b"\xff", b"", b'{"step": 20, "loss": 4.5}']
    (second / "metrics.jsonl").write_bytes(b"\n".join(lines))
    done = tove("runs", "compare", first, second)
    assert done.code == 0
    assert f"note: {second / 'metrics.jsonl'}: 3 lines, first line 2, are not a JSON object and left out" in done.err
    assert rows(done.out)["loss"] == ["3", "4.5"] and rows(done.out)["loss, lowest"] == ["3", "2"]


def test_the_lowest_loss_is_of_the_lines_that_have_a_number(tove: Tove, tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", [math.nan, 1.0, math.inf, 2.0]), run(tmp_path / "b", [math.nan])
    with (first / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99}\n{"step": 100, "loss": null}\n{"step": 101, "loss": "low"}\n')
    done = tove("runs", "compare", first, second)
    found = rows(done.out)
    assert done.code == 0 and done.err == ""
    assert found["loss, lowest"] == ["1", "-"] and found["loss, lowest at step"] == ["10", "-"]
    assert found["loss"] == ["low", "nan"]


def test_metrics_that_cannot_be_read_are_one_line(tove: Tove, tmp_path: Path) -> None:
    first = run(tmp_path / "a", [3.0])
    (first / "metrics.jsonl").unlink()
    (first / "metrics.jsonl").mkdir()
    assert "metrics.jsonl cannot be read" in tove("runs", "compare", first, first).error


def test_a_folder_without_a_run_is_refused(tove: Tove, tmp_path: Path) -> None:
    assert "holds no run" in tove("runs", "compare", tmp_path, tmp_path).error


def test_evaluations_are_put_into_one_table_and_runs_are_not_mixed_with_them(tove: Tove, tmp_path: Path) -> None:
    row = {"value": 0.625, "low": 0.5, "high": 0.75, "n": 8}
    folders = [tmp_path / name for name in ("x", "y", "z")]
    for folder in folders:
        folder.mkdir()
        (folder / "scores.json").write_text(json.dumps({"scores": {"exact match": row}, "absent": {}}))
        cost = {"samples_per_second": 2.5, "gflop": None}
        told = {"task": "gqa", "data": {"sha256": "0" * 64, "samples": 8}, "generation": {"beams": 1}, "cost": cost}
        (folder / "manifest.json").write_text(json.dumps(told))
    done = tove("runs", "compare", *folders)
    assert done.code == 0 and f"C: {folders[2]}" in done.out
    assert done.out.count("0.6250 (0.5000 to 0.7500)") == 3
    programs = json.loads(tove("runs", "compare", *folders, "--json").out)
    assert [one["folder"] for one in programs] == list(map(str, folders))
    assert programs[2]["scores"] == {"exact match": row} and programs[2]["cost"] == cost
    trained = run(tmp_path / "a", [3.0])
    assert "x holds an evaluation and " in tove("runs", "compare", folders[0], trained).error
    (folders[1] / "manifest.json").write_text(json.dumps({**told, "task": "vqa"}))
    assert "for task 'gqa' and" in tove("runs", "compare", *folders).error


def test_runs_are_compared_two_at_a_time(tove: Tove, tmp_path: Path) -> None:
    folders = [run(tmp_path / name, [3.0]) for name in "abc"]
    assert "3 runs were given, but two are compared" in tove("runs", "compare", *folders).error
    assert "1 run was given" in tove("runs", "compare", folders[0]).error
