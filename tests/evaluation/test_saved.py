from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.references import Reference, check_same_data, write_references
from tove_core.evaluation.saved import divide, matching, open_predictions, told
from tove_core.evaluation.tasks import task

REFERENCES = [
    Reference("q1", "i0", ("red",), "what?"),
    Reference("q2", "i1", ("blue",), "what?"),
    Reference("c1", "i0", ("a red thing",)),
    Reference("q3", "i2", ("green",), "what?"),
]


def keep(folder: Path, said: dict[str, str], references: list[Reference] | None = None, **manifest: Any) -> Path:
    folder.mkdir()
    lines = [json.dumps({"id": key, "prediction": text}) for key, text in said.items()]
    (folder / "predictions.jsonl").write_text("\n".join(lines))
    if references is not None:
        write_references(folder / "references.jsonl", references)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_samples_that_could_not_be_read_are_no_references(tmp_path: Path) -> None:
    folder = keep(
        tmp_path / "a", {"q1": "red", "c1": "a"}, REFERENCES[:3], unreadable=["q2"], left_out={"image unreadable": 1}
    )
    saved = open_predictions(folder)
    assert saved.references is not None and [one.id for one in saved.references] == ["q1", "c1"]
    assert saved.left_out == {"image unreadable": 1} and told(saved.left_out) == (
        "left out: 1 sample (image unreadable)"
    )
    assert [one.id for one in saved.answered(REFERENCES)] == ["q1", "c1", "q3"]
    assert told({}) == told({"image missing": 0}) == ""


def test_a_task_takes_what_it_scores_of_mixed_data_and_counts_the_rest(tmp_path: Path) -> None:
    left_out = {"of another task": 2, "image missing": 1}
    scored, out = divide(task("exact-match"), REFERENCES, {"q2"}, left_out)
    assert [one.id for one in scored] == ["q1", "q3"] and out == {"q2", "c1"}
    assert left_out == {"of another task": 3, "image missing": 1, "image unreadable": 1}
    folder = keep(tmp_path / "a", {"q1": "red", "c1": "a thing", "q3": "blue"}, REFERENCES)
    assert matching(folder, open_predictions(folder), scored, out) == {"q1": "red", "q3": "blue"}
    with pytest.raises(DataError, match=r"3 of 3 samples have a question .*choose the data set's own task"):
        divide(task("captions"), [one for one in REFERENCES if one.prompt], (), {})


def test_errors_name_the_file_they_are_about(tmp_path: Path) -> None:
    short = keep(tmp_path / "short", {"q1": "red"})
    with pytest.raises(DataError, match=r"short: of 4 samples 3 have no prediction"):
        matching(short, open_predictions(short), REFERENCES, ())
    other = keep(tmp_path / "other", {"q1": "red", "q2": "x"}, [REFERENCES[0], Reference("q2", "i1", ("x",), "what?")])
    with pytest.raises(DataError, match=r"other was made for other questions or answers: 1 of 2 samples differ .*'q2'"):
        matching(other, open_predictions(other), REFERENCES[:2], ())
    for name in ("predictions.jsonl", "references.jsonl"):
        twice = keep(tmp_path / f"twice-{name}", {"q1": "red"}, REFERENCES[:1])
        (twice / name).write_text((twice / name).read_text().strip() + "\n" + (twice / name).read_text())
        with pytest.raises(DataError, match=rf"twice-{name}/{name}: 1 ids come more than once"):
            open_predictions(twice)


def test_what_was_answered_without_targets_is_compared_by_its_questions() -> None:
    bare = [Reference(one.id, one.image, (), one.prompt) for one in REFERENCES]
    check_same_data([*REFERENCES[:3], Reference("q3", "i2", ("green",), "what?", "colour")], bare, "it")
    with pytest.raises(DataError, match=r"it was made for other questions: 1 of 4 samples differ \(first: 'q1'\)"):
        check_same_data([Reference("q1", "i0", ("red",), "who?"), *REFERENCES[1:]], bare, "it")


def test_the_folder_of_a_run_names_the_evaluations_inside_it(tmp_path: Path) -> None:
    keep(tmp_path / "predictions", {"q1": "red"}, REFERENCES[:1])
    keep(tmp_path / "test", {"q1": "red"}, REFERENCES[:1])
    (tmp_path / "checkpoint").mkdir()
    inside = f"give an evaluation inside it, {tmp_path / 'predictions'} or {tmp_path / 'test'}$"
    with pytest.raises(ConfigError, match=inside):
        open_predictions(tmp_path)
    with pytest.raises(ConfigError, match="that tove evaluate --out wrote"):
        open_predictions(tmp_path / "checkpoint")
