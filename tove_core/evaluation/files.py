"""Files of one JSON object per line, as they are written by runs that may be stopped at any moment."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tove_core.errors import DataError
from tove_core.folders import write_file


def read_records(path: Path, *, torn: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each record is ("said.jsonl line 3") and the record; blank lines are skipped.

    Args:
        path: one JSON object per line, or one JSON list of them.
        torn: whether a last line that is not whole is dropped, as a stopped process leaves one.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or holds something else.
    """
    for where, record in _parsed(path, torn):
        if not isinstance(record, dict):
            raise DataError(f"{where} holds {type(record).__name__}, but an object is wanted; repair it")
        yield where, record


def _parsed(path: Path, torn: bool) -> Iterator[tuple[str, Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
    content = content.removeprefix(BOM_UTF8)  # as editors of Windows put it first
    if torn:
        content = content[: content.rfind(b"\n") + 1]
    if content.lstrip()[:1] == b"[":
        for number, record in enumerate(_json(content, str(path))):
            yield f"{path} record {number}", record
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield f"{path} line {number}", _json(line, f"{path} line {number}")


def _json(content: bytes, where: str) -> Any:
    text = _decoded(content, where)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg.lower()}); repair it") from error
    except RecursionError as error:
        raise DataError(f"{where} nests brackets deeper than any record does; repair it") from error
    except ValueError as error:  # Python refuses such numbers
        raise DataError(f"{where} holds a number of thousands of digits; write it as a text") from error


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 (byte {content[error.start]:#04x}); save the file in that encoding"
        ) from error


def write_whole(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write records so that the file is there whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_file(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
