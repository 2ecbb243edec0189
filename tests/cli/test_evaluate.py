"""What `tove evaluate` and `tove score` read, leave out and refuse."""

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


@pytest.fixture(scope="module")
def run(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose configuration names a folder of images of its own."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    model = toy.build(["toy-wide"])
    toy.examples(model)
    model.trained = True
    model.save_pretrained(folder / "checkpoint")
    parts = {"clip": {"name": toy.clip}, "experts": ["toy-wide"], "decoder": {"name": toy.decoder}}
    data = {"path": str(toy.data), "images": str(toy.data.parent), "max_broken": 0.2}
    whole = {"model": parts, "data": data, "output": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    return folder


@pytest.fixture
def data(toy: Any, tmp_path: Path) -> Path:
    """A copy of the toy data, 4 captions and 8 questions, that may be damaged."""
    shutil.copytree(toy.data.parent, tmp_path / "data")
    return tmp_path / "data" / toy.data.name


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def put(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def vqa(data: Path, tmp_path: Path) -> tuple[Any, ...]:
    """The words that name questions and annotations as VQAv2 has them, about images in a folder of their own."""
    asked = [record for record in rows(data) if "question" in record][:5]
    (tmp_path / "val2014").mkdir()
    for number, record in enumerate(asked):
        shutil.copy(data.parent / record["image"], tmp_path / "val2014" / f"COCO_val2014_{number:012}.png")
    questions = [{"question_id": n, "image_id": n, "question": r["question"]} for n, r in enumerate(asked)]
    answers = [
        {"question_id": n, "answer_type": "other", "answers": [{"answer": "red"}] * 10} for n in range(len(asked))
    ]
    (tmp_path / "questions.json").write_text(json.dumps({"data_subtype": "val2014", "questions": questions}))
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": answers}))
    name = "COCO_{subset}_{image_id:012}.png"
    return (
        *("--reader", "vqav2", "--data", tmp_path / "questions.json", "--set", f"images={tmp_path / 'val2014'}"),
        *("--set", f"options.annotations={tmp_path / 'annotations.json'}", "--set", f"options.image_name={name}"),
    )


def test_readers_are_told_their_options_in_evaluating_and_in_scoring(
    tove: Tove, run: Path, vqa: tuple[Any, ...], tmp_path: Path
) -> None:
    done = tove("evaluate", run, "--task", "vqa", *vqa, "--out", tmp_path / "out", "--quiet")
    assert done.code == 0, done.err
    assert done.out.startswith("vqa: 5 samples of 5 images") and "VQA accuracy" in done.out
    said = tmp_path / "said.jsonl"
    shutil.copy(tmp_path / "out" / "predictions.jsonl", said)
    again = tove("score", said, "--task", "vqa", *vqa)
    assert again.code == 0 and again.out in done.out, again.err
    fewer = tove("evaluate", run, "--task", "vqa", *vqa, "--set", "limit=2", "--quiet")
    assert fewer.out.startswith("vqa: 2 samples")
    assert "did you mean 'annotations'" in tove("evaluate", run, *vqa[:6], "--set", "options.annotation=x").error
    assert "did you mean 'max_broken'" in tove("evaluate", run, "--set", "max_brocken=1").error
    assert (
        "did you mean 'max_broken'" in tove("diagnose", run, "--out", tmp_path / "page", "--set", "max_brocken=1").error
    )


def test_images_of_the_run_are_not_those_of_other_data(tove: Tove, run: Path, data: Path, tmp_path: Path) -> None:
    # Beside this file lie its images; the run's own folder has images of the same names that are not meant.
    assert tove("evaluate", run, "--data", data, "--quiet").code == 0
    moved = tmp_path / "elsewhere"
    data.parent.rename(moved)
    alone = put(tmp_path / "alone.jsonl", rows(moved / data.name))
    lost = tove("evaluate", run, "--data", alone)
    assert "12 of 12 images are not in" in lost.error
    assert tove("evaluate", run, "--data", alone, "--set", f"images={moved}", "--quiet").code == 0
    assert tove("evaluate", run, "--quiet").code == 0  # its own


def test_images_without_texts_are_described_and_scored_later(
    tove: Tove, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = rows(data)
    bare = put(
        data.with_name("bare.jsonl"), [{"id": r.get("id", f"s{n}"), "image": r["image"]} for n, r in enumerate(right)]
    )
    words, out = ("evaluate", run, "--data", bare, "--quiet"), tmp_path / "out"
    assert "have no target text" in tove(*words, "--out", out).error
    assert "give --out" in tove(*words, "--no-score").error
    done = tove(*words, "--no-score", "--out", out)
    assert done.code == 0, done.err
    assert "not scored: 12 predictions" in done.out and "cost: " in done.out
    assert not (out / "scores.json").exists() and len(rows(out / "predictions.jsonl")) == 12
    assert json.loads((out / "manifest.json").read_text())["task"] is None
    # Finished, it is not answered again.
    from tove_core.evaluation import run as runs

    with monkeypatch.context() as patch:
        patch.setattr(runs.ToveModel, "from_pretrained", lambda *_, **__: pytest.fail("no need"))
        assert tove(*words, "--no-score", "--out", out).out == done.out
    assert "hold no targets" in tove("score", out).error
    ids = [record["id"] for record in rows(out / "predictions.jsonl")]
    told = [{"id": name, "image": r["image"], "text": "a red square"} for name, r in zip(ids, right, strict=True)]
    full = put(data.with_name("full.jsonl"), told)
    scored = tove("score", out / "predictions.jsonl", "--data", full)
    assert scored.code == 0 and scored.out.startswith("captions: 12 samples of 12 images"), scored.err


def test_a_task_takes_the_samples_it_scores_and_says_how_many_it_left(
    tove: Tove, run: Path, data: Path, tmp_path: Path
) -> None:
    words, out = ("evaluate", run, "--data", data, "--quiet"), tmp_path / "out"
    assert "--task captions or --task exact-match" in tove(*words, "--out", out).error
    done = tove(*words, "--out", out, "--task", "captions")
    assert done.code == 0, done.err
    assert done.out.startswith("captions: 4 samples") and "left out: 8 samples (of another task)" in done.out
    for name in ("scores.json", "manifest.json"):
        assert json.loads((out / name).read_text())["left_out"] == {"of another task": 8}
    once = tove(*words, "--task", "gqa")
    assert once.out.startswith("gqa: 8 samples") and "left out: 4 samples (of another task)" in once.out
    again = tove("score", out, "--report", tmp_path / "again.json")
    assert "left out: 8 samples" in again.out
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads((out / "scores.json").read_text())
    assert tove("score", out, "--data", data).out in done.out
    # Answers to all of it are scored one task at a time.
    everything = tmp_path / "all"
    assert tove(*words, "--no-score", "--out", everything).code == 0
    assert "no one task fits" in tove("score", everything).error
    parts = [tove("score", everything, "--task", name).out for name in ("captions", "gqa")]
    assert parts[0] == again.out.replace(f"wrote {tmp_path / 'again.json'}\n", "") and parts[1] == once.out


def test_references_that_contradict_the_data_are_refused(tove: Tove, run: Path, data: Path, tmp_path: Path) -> None:
    asked = [record for record in rows(data) if "question" in record]
    mine = put(data.with_name("mine.jsonl"), asked)
    other = put(data.with_name("other.jsonl"), [{**r, "answer": "purple"} for r in asked])
    for name in ("a", "b"):
        done = tove("evaluate", run, "--data", mine, "--out", tmp_path / name, "--quiet")
        assert done.code == 0, done.err
    found = tove("score", tmp_path / "a", "--data", other)
    assert f"{tmp_path / 'a'} was made for other questions or answers: 8 of 8 samples differ" in found.error
    shutil.copy(tmp_path / "a" / "predictions.jsonl", tmp_path / "said.jsonl")
    found = tove("score", tmp_path / "said.jsonl", "--against", tmp_path / "b", "--data", other)
    assert f"{tmp_path / 'b'} was made for other questions or answers" in found.error
    assert tove("score", tmp_path / "said.jsonl", "--against", tmp_path / "b", "--data", mine).code == 0
    (tmp_path / "said.jsonl").write_text((tmp_path / "said.jsonl").read_text().partition("\n")[2])
    found = tove("score", tmp_path / "a", "--against", tmp_path / "said.jsonl")
    assert f"{tmp_path / 'said.jsonl'}: of 8 samples 1 have no prediction" in found.error


@pytest.mark.parametrize("fault", ["missing", "unreadable"])
def test_a_sample_without_its_image_is_left_out_and_counted(
    tove: Tove, run: Path, data: Path, tmp_path: Path, fault: str
) -> None:
    asked = put(data.with_name("asked.jsonl"), [record for record in rows(data) if "question" in record])
    whole = tove("evaluate", run, "--data", asked, "--out", tmp_path / "whole", "--quiet")
    assert whole.code == 0 and "left out" not in whole.out
    image = data.parent / rows(asked)[2]["image"]
    _ = image.unlink() if fault == "missing" else image.write_bytes(b"no image")
    words, line = ("evaluate", run, "--data", asked, "--quiet"), f"left out: 1 sample (image {fault})"
    for more in ((), ("--task", "gqa")):
        done = tove(*words, *more)
        assert done.code == 0 and line in done.out, done.err
    kept = tove(*words, "--out", tmp_path / "kept")
    assert kept.code == 0 and line in kept.out and kept.out.startswith("exact-match: 7 samples"), kept.err
    for name in ("scores.json", "manifest.json"):
        assert json.loads((tmp_path / "kept" / name).read_text())["left_out"] == {f"image {fault}": 1}
    assert tove(*words, "--out", tmp_path / "kept").out == kept.out
    for more in ((), ("--data", asked, "--set", "max_broken=0.2")):
        again = tove("score", tmp_path / "kept", *more)
        assert again.out.startswith("exact-match: 7 samples") and line in again.out, again.err
    for more in ((), ("--task", "gqa"), ("--out", tmp_path / "strict")):
        assert "max_broken" in tove(*words, *more, "--set", "max_broken=0.05").error


def test_what_cannot_be_written_or_used_is_said_before_the_work(
    tove: Tove, run: Path, data: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.evaluation import run as runs

    kept, file = tmp_path / "kept", tmp_path / "file"
    words = ("evaluate", run, "--data", data, "--quiet")
    assert tove(*words, "--task", "gqa", "--out", kept).code == 0
    file.write_text("")
    folder = toy.reading_clip.removeprefix("local-dir:")
    monkeypatch.setattr(runs.ToveModel, "from_pretrained", lambda *_, **__: pytest.fail("too late"))
    monkeypatch.setattr("tove_core.evaluation.saved.read_predictions", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr("tove_core.data.readers.collect", lambda *_: pytest.fail("too late"))
    for command, wanted in [
        (("score", kept, "--report", tmp_path / "no" / "x.json"), "there is no folder"),
        (("score", kept, "--report", tmp_path), "is a folder; give a file in it"),
        (("score", kept, "--report", kept / "predictions.jsonl"), "which is not an earlier result"),
        (("score", kept, "--report", kept / "scores.json"), "which is not an earlier result"),
        (("clip", "retrieval", folder, "--data", data, "--report", run / "config.yaml"), "not an earlier result"),
        (("clip", "retrieval", folder, "--data", data, "--report", "/dev/null"), "is no plain file"),
        ((*words, "--predictions", run / "config.yaml"), "which is not an earlier result"),
        ((*words, "--predictions", kept / "predictions.jsonl"), "which is not an earlier result"),
        ((*words, "--predictions", data), "which is not an earlier result"),
        ((*words, "--out", run), f"is the folder of a run; give a folder of its own, such as {run / 'test'}"),
        ((*words, "--out", data.parent), "holds something else already"),
        (
            ("cache", "build", run, "--out", run),
            f"is the folder of a run; give a folder of its own, such as {run / 'cache'}",
        ),
        (("cache", "build", run, "--out", kept), "holds something else already"),
        (("cache", "build", run, "--out", file), f"cannot be written: {file} is a file"),
        ((*words, "--out", file), "cannot be written"),
        ((*words, "--predictions", tmp_path), "is a folder; give a file in it"),
        (("evaluate", tmp_path / "nothing"), f"there is no folder {tmp_path / 'nothing'}"),
        (("evaluate", run / "checkpoint"), "does not say which data its model was made for; give --data, and --reader"),
        (("clip", "score", folder, kept, "--report", tmp_path / "no" / "x.json"), "there is no folder"),
        (("clip", "retrieval", folder, "--data", data, "--report", tmp_path), "is a folder"),
        (("clip", "zero-shot", folder, "--data", data, "--device", "cuda:77"), "cannot be used here"),
        ((*words, "--device", "cuda:77"), "cannot be used here"),
        ((*words, "--task", "gqa", "--device", "cuda:77"), "cannot be used here"),
        ((*words, "--out", tmp_path / "new", "--task", "gqa", "--device", "cuda:77"), "cannot be used here"),
    ]:
        assert wanted in tove(*command).error, command
    assert not (tmp_path / "new").exists()


def test_a_score_on_what_the_run_was_trained_on_is_told_from_one_on_held_out_data(
    tove: Tove, run: Path, data: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "was trained on these data"
    monkeypatch.chdir(toy.data.parent)
    assert told in tove("evaluate", run, "--quiet").err
    # However the same file is named, and whatever part of it is scored.
    assert told in tove("evaluate", run, "--data", toy.data.name, "--limit", 2, "--quiet").err
    assert told not in tove("evaluate", run, "--data", data, "--quiet").err
    assert told not in tove("evaluate", run, "--no-score", "--out", tmp_path / "out", "--quiet").err
    held = tmp_path / "held"
    shutil.copytree(run, held)
    whole = yaml.safe_load((run / "config.yaml").read_text())
    (held / "config.yaml").write_text(yaml.safe_dump(whole | {"validation": {"path": str(data)}}))
    assert told not in tove("evaluate", held, "--quiet").err
    assert told not in tove("evaluate", held / "checkpoint", "--data", toy.data, "--quiet").err
