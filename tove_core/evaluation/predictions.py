"""Files of predictions: tove's own, and the result files that COCO and VQA servers take."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tove_core.errors import DataError
from tove_core.evaluation.files import read_records, write_whole
from tove_core.evaluation.metrics.score import by_id, first_ids

_FORMS = (("id", "prediction"), ("image_id", "caption"), ("question_id", "answer"))
"""Keys of an id and its text: tove's, COCO's captioning results, VQA's results."""


def write_predictions(path: Path, said: Mapping[str, str]) -> None:
    """Write one `{"id": ..., "prediction": ...}` per line, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_whole(path, ({"id": key, "prediction": text} for key, text in said.items()))


def read_predictions(path: Path) -> dict[str, str]:
    """Read what was said, by sample id, from JSONL or a JSON list, in any of the forms of COCO, VQA and tove.

    Raises:
        DataError: the file cannot be read, is not UTF-8 or JSON, a record is of no known form, or an id comes twice.
    """
    pairs = [_pair(where, record) for where, record in read_records(path)]
    try:
        return by_id(pairs)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _pair(where: str, record: Mapping[str, Any]) -> tuple[str, str]:
    for key, text in _FORMS:
        if key in record and text in record:
            if not isinstance(record[text], str) or not isinstance(record[key], str | int):
                raise DataError(f"{where} has {key} {record[key]!r} and no text as {text}; repair it")
            return str(record[key]), _sound(where, record[text])
    forms = ", ".join(f"{key} and {text}" for key, text in _FORMS)
    raise DataError(f"{where} has the keys {', '.join(record) or 'none'}, but one of {forms} is wanted; repair it")


def _sound(where: str, text: str) -> str:
    """Return text that can be encoded; JSON can write halves of characters, which no program can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where} has half a character at {error.start} of its text {text!r}; repair it") from error
    return text


def check_predictions(said: Mapping[str, str], wanted: Sequence[str]) -> None:
    """Refuse predictions that are not about exactly the samples wanted; warn of empty ones, which are scored.

    Raises:
        DataError: ids are missing or extra, or none fits, which means another task's file.
    """
    check_ids(said, wanted)
    if empty := [name for name in wanted if not said[name].strip()]:
        warnings.warn(
            f"{len(empty)} of {len(set(wanted))} predictions are empty ({first_ids(empty)}); they are scored as they "
            "are",
            stacklevel=2,
        )


def check_ids(said: Mapping[str, str], wanted: Sequence[str], name: str | None = None) -> None:
    """Refuse predictions that are not about exactly the samples wanted.

    Args:
        said: by sample id.
        wanted: ids of the samples.
        name: the file that is meant, where there are several.

    Raises:
        DataError: ids are missing or extra, or none fits, which means another task's file.
    """
    whose = f"{name}: " if name else ""
    known = set(wanted)
    missing = [one for one in wanted if one not in said]
    extra = [one for one in said if one not in known]
    if wanted and len(missing) == len(known):
        raise DataError(
            f"{whose}none of {len(said)} predictions ({first_ids(extra) if extra else 'the file is empty'}) is about "
            f"one of {len(known)} samples ({first_ids(missing)}); score the file of this data set and task"
        )
    parts = [
        f"{len(ids)} {what} ({first_ids(ids)})"
        for ids, what in ((missing, "have no prediction"), (extra, "predictions are about none of them"))
        if ids
    ]
    if parts:
        raise DataError(
            f"{whose}of {len(known)} samples {' and '.join(parts)}; score exactly the samples of the data set"
        )
