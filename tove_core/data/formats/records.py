"""Rows with named columns, whatever file they come from: which column is what, and the sample a row becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import Field

from tove_core.data.files import checked_text, checked_texts, required_id, required_key
from tove_core.data.images import ImageSource, find_all
from tove_core.data.sample import ImageRef, Sample
from tove_core.errors import DataError
from tove_core.spec import Frozen


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
    def names(self) -> frozenset[str]:
        """Every column that says something."""
        return frozenset(self.model_dump().values())


class RecordOptions(Frozen):
    """Options of readers whose rows have named columns."""

    columns: Columns = Field(default=Columns(), description="names of the columns")


class Row(NamedTuple):
    """One row: the words that say where it stands, the id it has if it names none, and its cells."""

    where: str
    identifier: str
    cells: Mapping[str, Any]


def with_images(rows: Iterable[Row], columns: Columns, source: ImageSource) -> list[Sample]:
    """Return the samples of rows that name their images.

    Raises:
        DataError: a row is malformed.
    """
    # Row by row, so that a row's cells are gone before the next is read: a million rows should fit into memory.
    images: dict[str, ImageRef] = {}
    samples = []
    for row in rows:
        names = _image_names(row, columns)
        for name in names:
            if name not in images:
                images |= find_all(source, [name])
        several = isinstance(row.cells[columns.image], list)
        samples.append(sample(row, columns, tuple(images[n] for n in names) if several else images[names[0]]))
    return samples


def sample(row: Row, columns: Columns, image: ImageRef) -> Sample:
    """Return the sample of one row: a caption, a question with or without answers, or an image alone.

    Raises:
        DataError: the row is malformed.
    """
    where, identifier, cells = row
    others = {key: value for key, value in cells.items() if key not in columns.names}
    if columns.text in cells:
        strays = [name for name in (columns.question, columns.answer, columns.answers) if name in cells]
        if strays:
            raise DataError(
                f"{where} has both {columns.text!r} and {strays[0]!r}, but is a caption or a question; take one out"
            )
        prompt, targets = None, checked_texts(cells[columns.text], columns.text, where)
    elif columns.question in cells:
        prompt, targets = checked_text(cells[columns.question], columns.question, where), _answers(row, columns)
    elif others or columns.answer in cells or columns.answers in cells:
        raise DataError(
            f"{where} has {', '.join(cells)} but neither {columns.text!r} nor {columns.question!r}; "
            "name the column that holds the text in data.options.columns"
        )
    else:
        prompt, targets = None, ()
    if columns.id in cells:
        identifier = required_id(cells, columns.id, where)
    kind = checked_text(cells[columns.kind], columns.kind, where) if columns.kind in cells else ""
    return Sample(identifier, image, prompt, targets, kind, others)


def _image_names(row: Row, columns: Columns) -> list[str]:
    given = required_key(row.cells, columns.image, row.where)
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{row.where} has the image {given!r:.60}, but a path is wanted; repair it")
    return names


def _answers(row: Row, columns: Columns) -> tuple[str, ...]:
    one, many, cells = columns.answer, columns.answers, row.cells
    if one in cells and many in cells and one != many:
        raise DataError(f"{row.where} has both {one!r} and {many!r}, but one is wanted; take one out")
    if one in cells:
        return (checked_text(cells[one], one, row.where),)
    if many not in cells:
        return ()
    answers = cells[many]
    if isinstance(answers, list):  # VQAv2 keeps each answer in an object of its own
        answers = [required_key(item, "answer", row.where) if isinstance(item, dict) else item for item in answers]
    return checked_texts(answers, many, row.where)
