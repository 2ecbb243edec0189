from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tove_core.config import DataConfig
from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.manifest import read_manifest, write_manifest
from tove_core.evaluation.references import Reference, digest
from tove_core.evaluation.report import report
from tove_core.evaluation.table import is_evaluation, side_by_side
from tove_core.evaluation.tasks import task

ASKED = [Reference(f"q{n}", f"i{n // 2}", (("yes", "no")[n % 2],), "is it?") for n in range(14)]
COST = {
    "samples_per_second": 12.34,
    "latency": 0.0567,
    "gflop": 8.765,
    "peak_memory": 3 * 2**20,
    "memory_of": "process",
}


def evaluation(folder: Path, wrong: int = 3, name: str = "pope", asked: list[Reference] = ASKED, **more: Any) -> Path:
    """Write a folder as `tove evaluate --out` does, with so many wrong answers."""
    folder.mkdir()
    turned = {"yes": "no", "no": "yes"}
    said = {one.id: turned[one.targets[0]] if n < wrong else one.targets[0] for n, one in enumerate(asked)}
    result = report(task(name), said, asked).plain()
    (folder / "scores.json").write_text(json.dumps(result))
    data = {"sha256": digest(asked), "samples": len(asked)}
    plain = {"task": name, "data": data, "generation": {"num_beams": 1}, "cost": {**COST, "device": "cpu"}}
    write_manifest(folder, {**plain, **more})
    return folder


def test_evaluations_stand_side_by_side_with_intervals_and_costs(tmp_path: Path) -> None:
    slow = {**COST, "samples_per_second": None, "latency": 1.5, "peak_memory": None, "device": "cuda:0"}
    folders = [
        evaluation(tmp_path / "a"),
        evaluation(tmp_path / "b", 5, cost=slow, generation={"num_beams": 3}),
        evaluation(tmp_path / "c", 0, cost=None),
    ]
    found = side_by_side(folders)
    told = [json.loads((folder / "scores.json").read_text())["scores"] for folder in folders]
    assert list(found.rows)[:5] == ["accuracy", "precision", "recall", "F1", "yes-ratio"]
    for name in told[0]:
        values = [[one[name][key] for key in ("value", "low", "high")] for one in told]
        assert list(found.rows[name]) == ["{:.4f} ({:.4f} to {:.4f})".format(*row) for row in values]
    assert list(found.rows["samples/s"]) == ["12.3", None, None]
    assert list(found.rows["latency, ms"]) == ["56.7", "1500.0", None]
    assert list(found.rows["peak memory, MiB"]) == ["3", None, None]
    assert list(found.rows["GFLOP"]) == ["8.77", "8.77", None]
    assert list(found.rows["device"]) == ["cpu", "cuda:0", None]
    assert list(found.rows["num_beams"]) == ["1", "3", "1"]
    lines = str(found).splitlines()
    assert (
        lines[0] == f"A: {folders[0]}" and lines[3].startswith("pope: 14 samples") and lines[4].split() == list("ABC")
    )
    starts = [lines[4].index(letter) for letter in "ABC"]
    assert all(line[start - 1] == " " and line[start] != " " for line in lines[5:10] for start in starts)


def test_what_one_evaluation_lacks_is_said(tmp_path: Path) -> None:
    one = [Reference(f"q{n}", "i", ("yes",), "is it?") for n in range(2)]
    folders = [evaluation(tmp_path / name, 1, asked=one) for name in "ab"]
    scores = json.loads((folders[1] / "scores.json").read_text())
    scores["absent"] = {"F1": "it stopped"}
    del scores["scores"]["F1"]
    (folders[1] / "scores.json").write_text(json.dumps(scores))
    rows = side_by_side(folders).rows
    assert list(rows["F1"]) == ["0.6667", "absent"] and list(rows["accuracy"]) == ["0.5000", "0.5000"]


def test_other_data_and_other_tasks_are_refused(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"different data \(14 samples with hash [0-9a-f]{8}, 12 with"):
        side_by_side([first, evaluation(tmp_path / "b"), evaluation(tmp_path / "c", asked=ASKED[2:])])
    with pytest.raises(ConfigError, match=r"task 'pope' and .*d for 'gqa', whose figures mean different things"):
        side_by_side([first, evaluation(tmp_path / "d", name="gqa")])
    with pytest.raises(ConfigError, match="1 evaluation was given, but two or more"):
        side_by_side([first])


def test_evaluations_that_could_not_read_the_same_images_are_no_longer_on_the_same_samples(tmp_path: Path) -> None:
    lost = {"unreadable": ["q2", "q3"]}
    folders = [evaluation(tmp_path / "a", **lost), evaluation(tmp_path / "b", 5, **lost), evaluation(tmp_path / "c")]
    assert "pope: 12 samples;" in str(side_by_side(folders[:2]))
    with pytest.raises(ConfigError, match=r"different samples: the images of 2 \(first: 'q2', 'q3'\).*tove score A"):
        side_by_side(folders)


def test_what_is_no_finished_evaluation_is_refused(tmp_path: Path) -> None:
    first, second = evaluation(tmp_path / "a"), evaluation(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"holds no evaluation \(manifest.json is missing\)"):
        side_by_side([first, tmp_path])
    for text in ("{", "[]", '{"scores": {"accuracy": {"value": "much"}}, "absent": {}}'):
        (second / "scores.json").write_text(text)
        with pytest.raises(DataError, match=r"b holds a scores.json or manifest.json of unknown form"):
            side_by_side([first, second])
    (second / "scores.json").unlink()
    with pytest.raises(ConfigError, match=r"did not finish \(scores.json is missing\)"):
        side_by_side([first, second])
    assert is_evaluation(second) and not is_evaluation(tmp_path)
    (second / "config.yaml").touch()
    assert not is_evaluation(second)  # somebody evaluated into the folder of a run, which it stays


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_folders_that_an_evaluation_wrote_are_read(toy: Any, tmp_path: Path) -> None:
    from tove_core.evaluation.run import evaluate_into

    model = toy.build(["toy-wide"])
    toy.examples(model)
    model.save_pretrained(tmp_path / "checkpoint")
    questions = [sample for sample in toy.samples() if sample.prompt is not None]
    folders = [tmp_path / "one", tmp_path / "two"]
    for beams, folder in enumerate(folders, 1):
        evaluate_into(
            folder, tmp_path / "checkpoint", DataConfig(path=toy.data), questions, num_beams=beams, quiet=True
        )
    rows = side_by_side(folders).rows
    cost = (read_manifest(folders[0]) or {})["cost"]
    assert rows["GFLOP"][0] == f"{cost['gflop']:.3g}" and rows["num_beams"] == ["1", "2"]
    assert all(text and " to " in text for text in rows["exact match"])


def test_the_table_needs_no_torch() -> None:
    code = "import sys, tove_core.evaluation.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
