"""What is right, kept beside predictions, so that they can be scored again without the model and without the images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.evaluation.files import read_records
from tove_core.evaluation.metrics.score import by_id, first_ids
from tove_core.folders import write_file


@dataclass(frozen=True)
class Reference:
    """One sample without its pixels.

    Attributes:
        id: unique within its data set.
        image: the same for samples about one image, "i0", "i1" ... in the order of first use.
        targets: every text that is right.
        prompt: the question; None for a caption.
        kind: group that scores are broken down by; "" for none.
        meta: whatever else the data set says.
    """

    id: str
    image: str
    targets: tuple[str, ...]
    prompt: str | None = None
    kind: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)


def references_of(samples: Sequence[Sample]) -> list[Reference]:
    """Return the references of samples, in their order."""
    images: dict[str, str] = {}
    return [
        Reference(
            sample.id,
            images.setdefault(sample.image_key, f"i{len(images)}"),
            sample.targets,
            sample.prompt,
            sample.kind,
            dict(sample.meta),
        )
        for sample in samples
    ]


def write_references(path: Path, references: Iterable[Reference]) -> None:
    """Write one JSON object per line, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_file(path, "".join(f"{_line(one)}\n" for one in references))


def read_references(path: Path) -> list[Reference]:
    """Read what `write_references` wrote.

    Raises:
        DataError: the file is missing, malformed, or repeats an id.
    """
    found = []
    for where, record in read_records(path):
        try:
            found.append(Reference(**{**record, "targets": tuple(record["targets"])}))
        except (KeyError, TypeError) as error:
            raise DataError(f"{where} is no reference ({error}); give the file that tove evaluate wrote") from error
    try:
        by_id((one.id, one) for one in found)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return found


def digest(references: Iterable[Reference]) -> str:
    """Return the sha256 (hex) of references: the same where ids, prompts, targets and kinds are."""
    found = hashlib.sha256()
    for one in references:
        found.update(_line(one).encode("utf-8") + b"\n")
    return found.hexdigest()


def check_same_data(mine: Sequence[Reference], theirs: Sequence[Reference], name: str) -> None:
    """Refuse predictions that were made for other samples, or for the same with other questions, answers or kinds.

    Of samples that were answered without targets only the questions are compared.

    Args:
        mine: what is right here.
        theirs: what is kept beside the other's predictions.
        name: what the other is called.

    Raises:
        DataError: they differ; the message says in what.
    """
    here, there = ({one.id: one for one in those} for those in (mine, theirs))
    if odd := [key for key in {**here, **there} if (key in here) != (key in there)]:
        raise DataError(
            f"{name} answered {len(there)} samples and {len(here)} are asked here; {len(odd)} ids are in one alone "
            f"({first_ids(odd)}); evaluate both on one data set"
        )
    known = [key for key in here if there[key].targets]
    for what, keys, of in (
        ("questions", here, lambda one: one.prompt),
        ("questions or answers", known, lambda one: one.targets),
        ("kinds", known, lambda one: one.kind),
    ):
        if odd := [key for key in keys if of(here[key]) != of(there[key])]:
            raise DataError(
                f"{name} was made for other {what}: {len(odd)} of {len(here)} samples differ ({first_ids(odd)}); "
                "evaluate both on one data set"
            )


def _line(one: Reference) -> str:
    return json.dumps(asdict(one), ensure_ascii=False, sort_keys=True, default=str)
