"""Rows with named columns, whatever file they come from: which column is what, and the sample a row becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from tove_core.data.files import checked_text, checked_texts, required_id, required_key, writable
from tove_core.data.images import FoundImages, ImageSource
from tove_core.data.malformed import one_row
from tove_core.data.sample import ImageRef, Sample
from tove_core.errors import DataError
from tove_core.spec import Frozen


@dataclass(frozen=True, slots=True)
class Names:
    """`Columns` as they are asked for a million times: pydantic's models are slow at that."""

    image: str
    text: str
    question: str
    answer: str
    answers: str
    id: str
    kind: str
    every: frozenset[str]


class Columns(Frozen):
    """Which column holds what; columns not named here go to the sample's meta."""

    image: str = Field(default="image", description="the image, or a list of several")
    text: str = Field(default="text", description="a caption, or a list of them")
    question: str = Field(default="question", description="what is asked")
    answer: str = Field(default="answer", description="the one answer")
    answers: str = Field(default="answers", description="a list of answers that are all right")
    id: str = Field(default="id", description="unique name of the sample")
    kind: str = Field(default="kind", description="group that scores are broken down by")

    @cached_property
    def names(self) -> Names:
        """The names of the columns, one by one and all together."""
        told: dict[str, str] = self.model_dump()
        return Names(**told, every=frozenset(told.values()))


class RecordOptions(Frozen):
    """Options of readers whose rows have named columns."""

    columns: Columns = Field(default=Columns(), description="names of the columns")


_NOTHING: dict[str, Any] = {}
"""What else most rows say, in one place for all of them."""


class Row(NamedTuple):
    """One row of a file; as text it says where it stands, and only when an error needs the words."""

    file: Path | None
    place: str
    """Which row, as "line 3"."""
    cells: Mapping[str, Any]
    identifier: str | None = None
    """The id of a sample that names none; None: the place."""

    def __str__(self) -> str:
        return f"{self.file} {self.place}"


def with_images(rows: Iterable[Row], columns: Columns, source: ImageSource) -> list[Sample]:
    """Return the samples of rows that name their images.

    Raises:
        DataError: a row is malformed.
    """
    # Row by row, so that a row's cells are gone before the next is read: a million rows should fit into memory.
    images, samples, names = FoundImages(source), [], columns.names
    for row in rows:
        with one_row:
            given = _image_names(row, names.image)
            image = tuple([images[name] for name in given]) if isinstance(given, list) else images[given]
            samples.append(sample(row, names, image))
    return samples


def sample(row: Row, names: Names, image: ImageRef) -> Sample:
    """Return the sample of one row: a caption, a question with or without answers, or an image alone.

    Raises:
        DataError: the row is malformed.
    """
    cells = row.cells
    others = {} if names.every >= cells.keys() else {k: v for k, v in cells.items() if k not in names.every}
    if names.text in cells:
        strays = [name for name in (names.question, names.answer, names.answers) if name in cells]
        if strays:
            raise DataError(
                f"{row} has both {names.text!r} and {strays[0]!r}, but is a caption or a question; take one out"
            )
        prompt, targets = None, checked_texts(cells[names.text], names.text, row)
    elif names.question in cells:
        prompt, targets = checked_text(cells[names.question], names.question, row), _answers(row, names)
    elif others or names.answer in cells or names.answers in cells:
        raise DataError(
            f"{row} has {', '.join(cells)} but neither {names.text!r} nor {names.question!r}; "
            "name the column that holds the text in data.options.columns"
        )
    else:
        prompt, targets = None, ()
    identifier = required_id(cells, names.id, row) if names.id in cells else row.identifier or row.place
    kind = checked_text(cells[names.kind], names.kind, row) if names.kind in cells else ""
    return Sample(identifier, image, prompt, targets, kind, others or _NOTHING)


def _image_names(row: Row, column: str) -> str | list[str]:
    given = required_key(row.cells, column, row)
    if isinstance(given, str) and given:
        return writable(given, column, row)
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name for name in given):
        raise DataError(f"{row} has the image {given!r:.60}, but a path is wanted; repair it")
    return [writable(name, column, row) for name in given]


def _answers(row: Row, names: Names) -> tuple[str, ...]:
    one, many, cells = names.answer, names.answers, row.cells
    if one in cells and many in cells and one != many:
        raise DataError(f"{row} has both {one!r} and {many!r}, but one is wanted; take one out")
    if one in cells:
        return (checked_text(cells[one], one, row),)
    if many not in cells:
        return ()
    answers = cells[many]
    if isinstance(answers, list):  # VQAv2 keeps each answer in an object of its own
        answers = [required_key(item, "answer", row) if isinstance(item, dict) else item for item in answers]
    return checked_texts(answers, many, row)
