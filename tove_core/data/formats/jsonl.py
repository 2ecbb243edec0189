"""JSON lines: one object per line with an image and a text, or an image, a question and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tove_core.config import DataConfig
from tove_core.data.files import read_json_lines, refuse_split, required_key, required_path
from tove_core.data.images import PackedImage, find_all, open_images
from tove_core.data.sample import Sample
from tove_core.errors import DataError

KEYS = frozenset({"id", "image", "kind", "text", "question", "answer", "answers"})
"""What a line may say to tove; every other key goes to the sample's meta."""


def read(config: DataConfig) -> list[Sample]:
    """Read one sample per line.

    A line has "image" (relative to `images`, a folder or tar archive, else to the file's folder) and one of
    "text" (a text or a list of texts: captions), "question" with "answer" or "answers" (a list of texts, or of
    objects with "answer"); for inference "question" alone, or nothing. "id" (else "line N") and "kind" are optional.

    Raises:
        DataError: a line is malformed (its number is given), or images are missing.
    """
    refuse_split(config)
    path = required_path(config)
    lines = [(number, record, _image_name(record, f"{path} line {number}")) for number, record in read_json_lines(path)]
    images = find_all(open_images(config.images or path.parent), (name for _, _, name in lines))
    return [_sample(record, number, images[name], path) for number, record, name in lines]


def _image_name(record: Mapping[str, Any], where: str) -> str:
    name = required_key(record, "image", where)
    if not isinstance(name, str) or not name:
        raise DataError(f"{where} has the image {name!r}, but a path is wanted; repair it")
    return name


def _sample(record: Mapping[str, Any], number: int, image: Path | PackedImage, path: Path) -> Sample:
    where = f"{path} line {number}"
    others = {key: value for key, value in record.items() if key not in KEYS}
    if "text" in record:
        strays = sorted(record.keys() & {"question", "answer", "answers"})
        if strays:
            raise DataError(f"{where} has both 'text' and {strays[0]!r}, but is a caption or a question; take one out")
        prompt, targets = None, _texts(record["text"], "text", where)
    elif "question" in record:
        prompt, targets = _text(record["question"], "question", where), _answers(record, where)
    elif others or "answer" in record or "answers" in record:
        raise DataError(
            f"{where} has {', '.join(record)} but neither 'text' nor 'question'; rename the key that holds the text"
        )
    else:
        prompt, targets = None, ()
    identifier = record.get("id", f"line {number}")
    if not isinstance(identifier, (str, int)) or isinstance(identifier, bool):
        raise DataError(f"{where} has the id {identifier!r}, but a text or a whole number is wanted; repair it")
    kind = _text(record["kind"], "kind", where) if "kind" in record else ""
    return Sample(str(identifier), image, prompt, targets, kind, others)


def _answers(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "answer" in record and "answers" in record:
        raise DataError(f"{where} has both 'answer' and 'answers', but one is wanted; take one out")
    if "answer" in record:
        return (_text(record["answer"], "answer", where),)
    if "answers" not in record:
        return ()
    answers = record["answers"]
    if isinstance(answers, list):  # VQAv2 keeps each answer in an object of its own
        answers = [required_key(item, "answer", where) if isinstance(item, dict) else item for item in answers]
    return _texts(answers, "answers", where)


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if isinstance(value, list):
        if not value:
            raise DataError(f"{where} has an empty list as {key!r}, but texts are wanted; fill it or take the line out")
        return tuple(_text(item, key, where) for item in value)
    return (_text(value, key, where),)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} has {value!r:.60} as {key!r}, but a text is wanted; repair it or take the line out")
    return value.strip()
