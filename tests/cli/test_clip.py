from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def folder(toy: Any) -> str:
    """The folder of a CLIP that can read, as a merged run is given."""
    return toy.reading_clip.removeprefix("local-dir:")


@pytest.fixture
def told(toy: Any, tmp_path: Path) -> Path:
    """A file of captions alone."""
    path = toy.data.with_name("only-told.jsonl")
    path.write_text("".join(f"{line}\n" for line in toy.data.read_text().splitlines() if '"text"' in line))
    return path


def test_zero_shot_takes_classes_from_answers_or_from_a_file(tove: Tove, toy: Any, folder: str, tmp_path: Path) -> None:
    words = ("clip", "zero-shot", folder, "--data", toy.data, "--kind", "colour")
    done = tove(*words, "--own-transform", "--report", tmp_path / "found.json")
    assert done.code == 0, done.err
    assert "4 classes, 1 template" in done.out and "4 samples of 4 images" in done.out
    figures = json.loads((tmp_path / "found.json").read_text())
    assert figures["clip"] == f"local-dir:{folder}" and len(figures["views"]) == 2
    names, prompts = tmp_path / "classes.txt", tmp_path / "templates.txt"
    names.write_text("red\nblack\n\nblue\ngreen\nviolet\ngrey\n")
    prompts.write_text("a {}\n{}.\n")
    more = tove(*words[:2], toy.reading_clip, *words[3:], "--classes", names, "--templates", prompts)
    assert "6 classes, 2 templates" in more.out and "top-5" in more.out, more.err
    names.write_text("red\n")
    assert "target that is none of 1 classes" in tove(*words, "--classes", names).error


def test_retrieval_is_over_captions_and_says_what_it_left_out(tove: Tove, toy: Any, folder: str, told: Path) -> None:
    done = tove("clip", "retrieval", folder, "--reader", "jsonl", "--data", toy.data)
    assert done.code == 0 and "8 of 12 samples ask a question and are left out" in done.err
    assert "text to image R@1" in done.out and "image to text R@5" in done.out
    alone = tove("clip", "retrieval", folder, "--reader", "jsonl", "--data", told)
    assert "left out" not in alone.err and alone.out == done.out


def test_clip_score_reads_an_evaluations_folder_or_any_file(
    tove: Tove, toy: Any, folder: str, told: Path, tmp_path: Path
) -> None:
    model = toy.build(clip=toy.reading_clip)
    toy.examples(model)
    model.trained = True
    run, kept = tmp_path / "run", tmp_path / "kept"
    model.save_pretrained(run)
    assert tove("evaluate", run, "--data", told, "--out", kept, "--quiet").code == 0
    done = tove("clip", "score", folder, kept)
    assert done.code == 0 and "CLIPScore" in done.out and "this same CLIP" in done.err, done.err
    file = tmp_path / "said.jsonl"
    file.write_text((kept / "predictions.jsonl").read_text())
    again = tove("clip", "score", folder, file, "--reader", "jsonl", "--data", told)
    assert again.out == done.out and "this same CLIP" not in again.err
    short = tmp_path / "short.jsonl"
    short.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[1:]))
    assert "1 have no prediction" in tove("clip", "score", folder, short, "--reader", "jsonl", "--data", told).error
    other = tove("clip", "score", folder, kept, "--reader", "jsonl", "--data", toy.data).error
    assert "answered 4 samples and 12 are asked here" in other


def test_samples_of_unreadable_images_are_left_out_as_far_as_the_data_allow(
    tove: Tove, toy: Any, folder: str, told: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    rows = [row | {"image": str(told.parent / row["image"])} for row in rows]
    (tmp_path / "broken.png").write_text("no image")
    rows.append({"id": "lost", "image": "broken.png", "text": "nothing"})
    broken, said = tmp_path / "broken.jsonl", tmp_path / "said.jsonl"
    broken.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said.write_text("".join(f"{json.dumps({'id': row['id'], 'prediction': 'a red one'})}\n" for row in rows))
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(row["text"] if isinstance(row["text"], str) else row["text"][0] for row in rows))
    commands = (("zero-shot", "--classes", classes), ("retrieval",), ("score", said))
    for command, *more in commands:
        words = ("clip", command, folder, *more, "--reader", "jsonl", "--data", broken)
        done = tove(*words, "--set", "max_broken=0.5")
        assert f"{len(rows) - 1} samples of" in done.out, done.err
        assert "broken.png is not an image" in done.err and "1 of 5 images so far are left out" in done.err
        assert "more than data.max_broken (0.001) allows" in tove(*words).error
    broken.write_text(json.dumps(rows[-1]))
    alone = tove("clip", "retrieval", folder, "--reader", "jsonl", "--data", broken, "--set", "max_broken=1")
    assert "none of 1 images can be read" in alone.error


def test_what_cannot_be_scored_is_said_in_one_line(tove: Tove, toy: Any, folder: str, tmp_path: Path) -> None:
    asking = tmp_path / "asking.jsonl"
    lines = toy.data.read_text().replace('"image": "', f'"image": "{toy.data.parent}/').splitlines()
    asking.write_text("".join(f"{line}\n" for line in lines if "question" in line))
    data = ("--reader", "jsonl", "--data", asking)
    for words, wanted in [
        (("zero-shot", tmp_path, *data), "holds no CLIP"),
        (("zero-shot", folder, *data, "--kind", "shape"), "of kind 'shape'; choose one of 'colour', 'dark'"),
        (("zero-shot", folder, *data, "--view", "own"), "view 'own' is not known"),
        (("zero-shot", folder, *data, "--template", "a photo"), "no single {}"),
        (("zero-shot", folder, *data, "--template", "{}", "--templates", asking), "give one of them"),
        (("zero-shot", folder, *data, "--classes", tmp_path / "none"), "cannot be read"),
        (("zero-shot", folder, *data, "--set", "imags=x"), "did you mean 'images'"),
        (("retrieval", folder, *data), "all 8 samples ask a question"),
        (("score", folder, tmp_path), "has no predictions"),
    ]:
        assert wanted in tove("clip", *words).error, words
