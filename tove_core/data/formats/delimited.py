"""Tables as text, CSV and TSV: a head with the names of the columns, then one sample per row."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import read_text, required_path
from tove_core.data.formats.records import RecordOptions, Row, with_images
from tove_core.data.images import open_images
from tove_core.data.malformed import one_row
from tove_core.data.sample import Sample
from tove_core.errors import DataError


class TableOptions(RecordOptions):
    """Options of the readers of text tables."""

    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="between cells; None: a tab for tsv, a comma for csv"
    )
    separator: str | None = Field(
        default=None, min_length=1, description="between several captions, answers or images in one cell; None: one"
    )


def read(config: SourceConfig, options: TableOptions) -> list[Sample]:
    """Read one sample per row; the cells are as in the lines of the reader "jsonl", an empty cell as if not there.

    Raises:
        DataError: the file has no head, or a row is malformed (its line is given).
    """
    path = required_path(config)
    delimiter = options.delimiter or ("\t" if config.reader == "tsv" else ",")
    return with_images(_rows(path, delimiter, options), options.columns, open_images(config.images or path.parent))


def _rows(path: Path, delimiter: str, options: TableOptions) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    columns = options.columns
    several = {columns.image, columns.text, columns.answers} if options.separator else set()
    head = _checked_head(_cells(reader, path) or [], path, columns.image)
    while True:
        cells: list[str] | None = []
        with one_row:
            cells = _cells(reader, path, len(head))
        if cells is None:
            return
        if not any(cells):
            continue
        named: dict[str, Any] = {name: cell for name, cell in zip(head, cells, strict=True) if cell.strip()}
        for name in several & named.keys():
            named[name] = [part.strip() for part in named[name].split(options.separator) if part.strip()]
        yield Row(path, f"line {reader.line_num}", named)


def _cells(reader: Any, path: Path, wanted: int | None = None) -> list[str] | None:
    """Return the cells of the next row, `wanted` of them or only blanks; None behind the last row."""
    try:
        cells = next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not delimited text ({error}); repair it") from error
    if wanted is not None and cells and any(cells) and len(cells) != wanted:
        raise DataError(f"{path} line {reader.line_num} has {len(cells)} cells, but the head has {wanted}; repair it")
    return cells


def _checked_head(head: list[str], path: Path, image: str) -> list[str]:
    """Refuse names of columns among which there is none for images, or one twice."""
    if image not in head:
        raise DataError(
            f"{path} has the columns {', '.join(head) or 'nothing'} but no {image!r}; "
            "set data.options.columns.image or data.options.delimiter"
        )
    # Spreadsheets write columns without a name, several of them and empty, at the right.
    twice = [name for name, count in Counter(head).items() if name and count > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} twice, and one would be lost; rename it or take it out")
    return head
