"""Lists of JSON objects, as one JSON list or as JSON lines, read one object at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tove_core.data.files import read_json_lines, read_text
from tove_core.errors import DataError

_BLANKS = re.compile(r"[ \t\r\n]*")


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of a JSON list or a JSON lines file, each with the words that say where it stands.

    One after the other: decoded, a million of them take several times the memory of their text.

    Raises:
        DataError: the file is missing, or holds something else.
    """
    if path.suffix == ".jsonl":
        yield from _lines(path)
        return
    text = read_text(path)
    begin = _blank(text, 0)
    if text.startswith("[", begin):
        yield from _items(text, begin + 1, path)
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        # POPE and others call JSON lines ".json"; what is neither is reported as JSON lines, by its line.
        yield from _lines(path)
        return
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, but a list of objects is wanted; repair it")
    yield f"{path} item 0", content  # one line of JSON lines


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{path} line {number}", record) for number, record in read_json_lines(path))


def _items(text: str, place: int, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the items of a JSON list whose first could begin at `place`."""
    scan, number = json.JSONDecoder().raw_decode, 0
    place = _blank(text, place)
    closed = text.startswith("]", place)
    while not closed:
        try:
            record, place = scan(text, place)
        except json.JSONDecodeError as error:
            raise _no_list(text, error.pos, path, error.msg.lower()) from error
        where = f"{path} item {number}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {type(record).__name__}, but an object is wanted; repair it")
        yield where, record
        number, place = number + 1, _blank(text, place)
        closed = text.startswith("]", place)
        if not closed:
            if not text.startswith(",", place):
                raise _no_list(text, place, path, "expecting ',' delimiter")
            place = _blank(text, place + 1)
    end = _blank(text, place + 1)
    if end != len(text):
        raise _no_list(text, end, path, "extra data")


def _blank(text: str, place: int) -> int:
    """Return where the blanks from `place` on end."""
    found = _BLANKS.match(text, place)
    return place if found is None else found.end()


def _no_list(text: str, place: int, path: Path, fault: str) -> DataError:
    line = text.count("\n", 0, place) + 1
    return DataError(f"{path} is not JSON (line {line}: {fault}); repair or replace it")
