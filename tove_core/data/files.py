"""Reading the text files data sets are made of, with errors that say where the fault is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tove_core.config import DataConfig
from tove_core.errors import DataError


def required_path(config: DataConfig) -> Path:
    """Return `config.path`, which the reader cannot do without.

    Raises:
        DataError: it is not set or does not exist.
    """
    if config.path is None:
        raise DataError(f"reader {config.reader!r} was given no path, but needs one; set data.path")
    if not config.path.exists():
        raise DataError(f"{config.path} does not exist; set data.path to the {config.reader} data set")
    return config.path


def refuse_split(config: DataConfig) -> None:
    """Refuse a split where the format has none: an option that does nothing would mislead.

    Raises:
        DataError: the split is not the default.
    """
    default = DataConfig.model_fields["split"].default
    if config.split != default:
        raise DataError(
            f"split {config.split!r} was asked of reader {config.reader!r}, which has no splits; "
            "set data.path to the file of that split and leave data.split out"
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # a byte order mark is common in files written on Windows
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: the file is missing, not UTF-8, or not JSON.
    """
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON (line {error.lineno}: {error.msg.lower()}); repair or replace it"
        ) from error


def read_json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield line number, counted from 1, and object for each line that is not blank.

    Raises:
        DataError: the file is missing, or a line is not a JSON object.
    """
    # Not splitlines(): JSON texts may hold U+2028 and others that it would break at.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not JSON ({error.msg.lower()}); repair it") from error
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number} holds {type(record).__name__}, but an object is wanted; repair it")
        yield number, record


def required_key(record: Any, key: str, where: str) -> Any:
    """Return `record[key]`; `where` says in the error which record it was ("a.json annotation 3").

    Raises:
        DataError: the record is no object or has no such key.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where} is {type(record).__name__}, but an object with {key!r} is wanted; repair it")
    if key not in record:
        raise DataError(f"{where} has no {key!r} (it has {', '.join(record) or 'nothing'}); add it")
    return record[key]
