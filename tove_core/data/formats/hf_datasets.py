"""Data sets of Hugging Face's `datasets`, from local files: a saved folder, parquet, arrow, imagefolder and others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import required_path
from tove_core.data.formats.records import RecordOptions, Row, sample, with_images
from tove_core.data.images import StoredImage, open_images
from tove_core.data.malformed import one_row
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError, DataError

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
"""What a file is opened with, by its extension."""

Builder = Literal["parquet", "arrow", "json", "csv", "imagefolder", "webdataset"]


class HubOptions(RecordOptions):
    """Options of the reader "datasets"."""

    builder: Builder | None = Field(
        default=None,
        description="what opens the files; None: by the extension, imagefolder for a folder that datasets did not save",
    )


@dataclass(frozen=True)
class TableImage(StoredImage):
    """The image in one row of a table; tables are mapped from disk, so that images take no memory until read.

    Attributes:
        table: a `datasets.Dataset` whose image column is not decoded.
        column: name of that column.
        row: number of the row.
        name: what stands for the table in the image's key.
    """

    table: Any = field(repr=False, compare=False)
    column: str
    row: int
    name: str

    @property
    def key(self) -> str:
        """Table, column and row."""
        return f"table:{self.name}!{self.column}/{self.row}"

    def read(self) -> bytes | Path:
        """Return the encoded image, or its file where the table only names it.

        Raises:
            DataError: the cell is empty.
        """
        cell = self.table[self.row][self.column]
        if cell and cell.get("bytes"):
            return cell["bytes"]
        if cell and cell.get("path"):
            return Path(cell["path"])
        raise DataError(f"row {self.row} has no image in column {self.column!r}; take the row out")


def read(config: SourceConfig, options: HubOptions) -> list[Sample]:
    """Read one sample per row, with id "row N" where no column gives one; columns are as the keys of "jsonl".

    `path` is a folder written by `save_to_disk`, a file, or a folder of images; `split` picks one of several splits.
    A column of class labels is read as their names. Images are a column of the type Image, or paths. Other columns of
    images, sound or video are left alone: no sample could hold what they decode to.

    Raises:
        ConfigError: `datasets` is not installed.
        DataError: it cannot read the files, there is no such split, or a row is malformed.
    """
    table = _open(config, required_path(config), options.builder)
    import datasets
    from datasets.features.features import require_decoding

    column = options.columns.image
    if column not in table.column_names:
        raise DataError(
            f"{config.path} has the columns {', '.join(table.column_names)} but no {column!r}; "
            "set data.options.columns.image"
        )
    media = {name for name, one in table.features.items() if require_decoding(one, ignore_decode_attribute=True)}
    plain = [name for name in table.column_names if name not in media]
    if column not in media:
        folder = config.images or (
            config.path if config.path and config.path.is_dir() else required_path(config).parent
        )
        rows = (row for _, row in _rows(config, table, plain))
        return with_images(rows, options.columns, open_images(folder))
    if not isinstance(table.features[column], datasets.Image):
        kind = " ".join(str(table.features[column]).split())
        raise DataError(
            f"column {column!r} of {config.path} is of the type {kind:.80}, but one image per row is wanted, or paths; "
            "convert it, or name another column in data.options.columns.image"
        )
    if config.images is not None:
        raise DataError(f"data.images was given, but column {column!r} of {config.path} holds its images; leave it out")
    images = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    others = _rows(config, table, plain)
    # The fingerprint of datasets says what the table holds and how it was made.
    name = table._fingerprint
    samples = []
    for number, row in others:
        with one_row:
            samples.append(sample(row, options.columns.names, TableImage(images, column, number, name)))
    return samples


def _open(config: SourceConfig, path: Path, builder: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "reader 'datasets' needs a library that is not installed; run pip install 'tove-core[datasets]'"
        ) from error
    try:
        if builder is None and (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path / config.split))
        if builder is None and (path / "state.json").is_file():
            return datasets.load_from_disk(str(path))
        if path.is_dir():
            return datasets.load_dataset(builder or "imagefolder", data_dir=str(path), split=config.split)
        chosen = builder or BUILDERS.get(path.suffix)
        if chosen is None:
            raise DataError(f"{path} has an extension that says nothing; set data.options.builder")
        return datasets.load_dataset(chosen, data_files={config.split: str(path)}, split=config.split)
    except DataError:
        raise
    except Exception as error:  # its builders raise what their parsers do
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} (split {config.split!r}) cannot be read by datasets ({reason}); check it") from error


def _rows(config: SourceConfig, table: Any, columns: list[str]) -> Iterator[tuple[int, Row]]:
    labels = {name: feature for name, feature in table.features.items() if hasattr(feature, "int2str")}
    cells_of = table.select_columns(columns) if columns else [{} for _ in range(len(table))]
    for number, cells in enumerate(cells_of):
        row = Row(config.path, f"row {number}", {name: value for name, value in cells.items() if value is not None})
        told = None
        with one_row:
            told = {name: _label(row, name, labels[name]) for name in row.cells if name in labels}
        if told is not None:
            yield number, row._replace(cells={**row.cells, **told})


def _label(row: Row, column: str, classes: Any) -> str:
    try:
        return classes.int2str(row.cells[column])
    except ValueError as error:  # -1 stands for a label that is kept secret
        raise DataError(
            f"{row} has the label {row.cells[column]!r:.60} in column {column!r}, which has no name; take the row out"
        ) from error
