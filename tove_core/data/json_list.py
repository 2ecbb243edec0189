"""Large JSON files: lists of objects, as one JSON list, as JSON lines or below a key, read one object at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tove_core.data.files import parse, read_json_lines, read_text, required_key, required_list, scan
from tove_core.data.malformed import one_row
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
    file = _Text(path)
    if file.at("["):
        for number, record in enumerate(file.items()):
            where = f"{path} item {number}"
            if isinstance(record, dict):
                yield where, record
                continue
            with one_row:
                raise DataError(f"{where} is {type(record).__name__}, but an object is wanted; repair it")
        file.end()
        return
    try:
        content = parse(file.text)
    except json.JSONDecodeError:
        # POPE and others call JSON lines ".json"; what is neither is reported as JSON lines, by its line.
        yield from _lines(path)
        return
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, but a list of objects is wanted; repair it")
    yield f"{path} item 0", content  # one line of JSON lines


def read_members(
    path: Path, lists: Collection[str] = (), optional: Collection[str] = ()
) -> Iterator[tuple[str, int, Any]]:
    """Yield what the one object of a JSON file holds, in its order: key, number and value.

    Args:
        path: of the file.
        lists: keys of lists, whose items come one after the other, numbered from 0; other values come whole.
        optional: those of `lists` that may be left out.

    Raises:
        DataError: the file is missing, is no JSON object, lacks one of `lists`, or has something else there.
    """
    file, seen = _Text(path), dict[str, None]()
    if not file.at("{"):
        kind = type(file.value()).__name__
        file.end()
        raise DataError(f"{path} holds {kind}, but an object is wanted; repair it or give another file")
    for key in file.members():
        seen[key] = None
        if key not in lists:
            yield key, 0, file.value()
        elif file.at("["):
            yield from ((key, number, item) for number, item in enumerate(file.items()))
        else:
            required_list({key: file.value()}, key, path)
    file.end()
    for key in lists:
        if key not in optional:
            required_key(seen, key, path)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{path} line {number}", record) for number, record in read_json_lines(path))


class _Text:
    """The text of a JSON file, and the place up to which it was read.

    Raises:
        DataError: in all methods, where it is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.text, self.place = path, read_text(path), 0
        self._skip(0)

    def at(self, sign: str) -> bool:
        """Whether that comes next."""
        return self.text.startswith(sign, self.place)

    def value(self) -> Any:
        """Return the value that comes next."""
        try:
            value, self.place = scan(self.text, self.place)
        except json.JSONDecodeError as error:
            raise self._fault(error.msg.lower(), error.pos) from error
        return value

    def items(self) -> Iterator[Any]:
        """Yield the items of the list that comes next."""
        for _ in self._parts("]"):
            yield self.value()

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; whoever asks reads the value before the next key."""
        for _ in self._parts("}"):
            if not self.at('"'):
                raise self._fault("expecting property name enclosed in double quotes")
            key = self.value()
            self._skip(0)
            if not self.at(":"):
                raise self._fault("expecting ':' delimiter")
            self._skip(1)
            yield key

    def end(self) -> None:
        """Refuse anything behind."""
        self._skip(0)
        if self.place != len(self.text):
            raise self._fault("extra data")

    def _parts(self, close: str) -> Iterator[None]:
        """Stop at every part of a list or an object, and behind it."""
        self._skip(1)
        closed = self.at(close)
        while not closed:
            yield
            self._skip(0)
            closed = self.at(close)
            if not closed:
                if not self.at(","):
                    raise self._fault("expecting ',' delimiter")
                self._skip(1)
        self._skip(1)

    def _skip(self, signs: int) -> None:
        """Go past so many signs and the blanks behind them."""
        found = _BLANKS.match(self.text, self.place + signs)
        self.place = self.place + signs if found is None else found.end()

    def _fault(self, words: str, place: int | None = None) -> DataError:
        line = self.text.count("\n", 0, self.place if place is None else place) + 1
        return DataError(f"{self.path} is not JSON (line {line}: {words}); repair or replace it")
