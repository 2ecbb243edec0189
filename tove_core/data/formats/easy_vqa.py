"""easy-VQA (github.com/vzhou842/easy-VQA): coloured shapes and questions with thirteen answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tove_core.config import SourceConfig
from tove_core.data.files import checked_text, read_json, required_path
from tove_core.data.images import FoundImages, ImageArchive, ImageFolder
from tove_core.data.malformed import one_row
from tove_core.data.sample import Sample
from tove_core.errors import DataError

KINDS = (
    ("colour", re.compile(r"what (color is|is the color of) the \w+\?")),
    ("shape", re.compile(r"what shape .+\?|what is the \w+ shape\?")),
    ("yes/no", re.compile(r"(is|does) .+\?")),
)
"""Kind of question by the form of all of it; the first that matches."""


def question_kind(question: str) -> str:
    """Return "colour", "shape" or "yes/no" for one of easy-VQA's question templates.

    Raises:
        DataError: the question follows none of them.
    """
    for kind, form in KINDS:
        if form.fullmatch(question):
            return kind
    raise DataError(f"question {question!r} has none of easy-VQA's forms; use reader 'jsonl' for other questions")


def read(config: SourceConfig) -> list[Sample]:
    """Read one split, one sample per question, with ids "split/row".

    The folder `path` holds `{split}_questions.json` or, as published, `{split}/questions.json`: a list of
    [question, answer, image id]; and the images as `{split}/images/N.png` or inside `{split}_images.tar`.

    Raises:
        DataError: files are missing, a row is malformed, or images are missing.
    """
    folder = required_path(config)
    if config.images is not None:
        raise DataError("data.images was given, but reader 'easy-vqa' finds the images below data.path; leave it out")
    questions = _first_existing(folder, f"{config.split}_questions.json", f"{config.split}/questions.json")
    rows = read_json(questions)
    if not isinstance(rows, list):
        raise DataError(
            f"{questions} holds {type(rows).__name__}, but a list of [question, answer, image id] is wanted"
        )
    images, samples = FoundImages(_images(folder, config.split)), []
    for number, row in enumerate(rows):
        with one_row:
            question, answer, image = _row(row, f"{questions} row {number}")
            samples.append(
                Sample(
                    id=f"{config.split}/{number}",
                    image=images[f"images/{image}.png"],
                    prompt=question,
                    targets=(answer,),
                    kind=question_kind(question),
                    meta={"image_id": image},
                )
            )
    return samples


def _row(row: Any, where: str) -> tuple[str, str, int]:
    """Check one row."""
    if not isinstance(row, list) or [type(item) for item in row] != [str, str, int]:
        raise DataError(f"{where} is {row!r:.80}, but [question, answer, image id] is wanted; repair it")
    return checked_text(row[0], "question", where), checked_text(row[1], "answer", where), row[2]


def _first_existing(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder} has none of {', '.join(names)}; set data.path to easy-VQA's folder, data.split to a split"
    )


def _images(folder: Path, split: str) -> ImageFolder | ImageArchive:
    if (folder / split / "images").is_dir():
        return ImageFolder(folder / split)
    return ImageArchive(_first_existing(folder, f"{split}_images.tar"))
