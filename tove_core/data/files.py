"""Reading the text files data sets are made of, with errors that say where the fault is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tove_core.config import SourceConfig
from tove_core.data.malformed import one_row
from tove_core.errors import DataError
from tove_core.hub.reference import here
from tove_core.language.marks import half_character

_DECODER = json.JSONDecoder()


PATH_KEY: ContextVar[str] = ContextVar("PATH_KEY", default="data.path")
"""What a path that leads nowhere is set with: which section of a configuration is read, only `read` knows."""


@contextmanager
def path_key(key: str) -> Iterator[None]:
    """Say within the block what sets the path, for errors."""
    token = PATH_KEY.set(key)
    try:
        yield
    finally:
        PATH_KEY.reset(token)


def required_path(config: SourceConfig) -> Path:
    """Return `config.path`, which the reader cannot do without.

    Raises:
        DataError: it is not set or does not exist.
    """
    if config.path is None:
        raise DataError(f"reader {config.reader!r} was given no path, but needs one; set {PATH_KEY.get()}")
    if not config.path.exists():
        where = f"{config.path} does not exist{here(config.path)}"
        raise DataError(f"{where}; set {PATH_KEY.get()} to the {config.reader} data set")
    return config.path


def refuse_split(config: SourceConfig) -> None:
    """Refuse a split where the format has none: an option that does nothing would mislead.

    Raises:
        DataError: the split is not the default.
    """
    default = SourceConfig.model_fields["split"].default
    if config.split != default:
        raise DataError(
            f"split {config.split!r} was asked of reader {config.reader!r}, which has no splits; "
            "give the file of that split as data.path (--data on the command line) and leave data.split (--split) out"
        )


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # a byte order mark is common in files written on Windows
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from error
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give the file in it") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def scan(text: str, place: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at a place of a text, and where it ends.

    Raises:
        json.JSONDecodeError: there is none, or one that the decoder gives up on, whatever it raises then.
    """
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        raise _given_up(error, text, place) from error


def parse(text: str) -> Any:
    """Return the JSON value that a text is.

    Raises:
        json.JSONDecodeError: as of `scan`.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        raise _given_up(error, text, 0) from error


def _given_up(error: Exception, text: str, place: int) -> json.JSONDecodeError:
    deep = isinstance(error, RecursionError)
    return json.JSONDecodeError("Nested too deeply" if deep else "A number of too many digits", text, place)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: the file is missing, not UTF-8, or not JSON.
    """
    try:
        return parse(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON (line {error.lineno}: {error.msg.lower()}); repair or replace it"
        ) from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number, counted from 1, and object for each line that is not blank, reading as it goes.

    Raises:
        DataError: the file is missing, or a line is not a JSON object.
    """
    # Lines end at line feeds alone: JSON texts may hold U+2028 and others that splitlines() would break at.
    for number, line in enumerate(_lines(path), start=1):
        if line.isspace():
            continue
        record = None
        with one_row:
            record = _object(line, path, number)
        if record is not None:
            yield number, record


def is_one_document(path: Path) -> bool:
    """Return whether a file is one JSON list, or one object written over several lines, and so is no JSON lines.

    Raises:
        DataError: the file cannot be read.
    """
    filled = (line.strip() for line in _lines(path) if not line.isspace())
    first, second = next(filled, ""), next(filled, "")
    if first in ("[", "{"):
        return second.startswith("{" if first == "[" else '"')
    try:
        return first.startswith("[") and isinstance(parse(first), list)
    except json.JSONDecodeError:
        return first.startswith("[{") and second.startswith(("{", '"'))


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record, end = scan(line)
        if line[end:] not in ("\n", ""):
            record = parse(line)  # blanks around it are well; what else there is, it says
    except json.JSONDecodeError:
        record = _parsed(line, path, number)
    if not isinstance(record, dict):
        raise DataError(f"{path} line {number} holds {type(record).__name__}, but an object is wanted; repair it")
    return record


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return parse(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {number} is not JSON ({error.msg.lower()}); repair it") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:  # as in `read_text`
            yield from file
    except UnicodeDecodeError:
        read_text(path)  # which knows the byte
        raise
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give the file in it") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def required_text(record: Any, key: str, where: object) -> str:
    """Return `record[key]`, stripped; see `required_key`.

    Raises:
        DataError: there is no such key, or no text in it.
    """
    return checked_text(required_key(record, key, where), key, where)


def checked_text(value: Any, key: str, where: object) -> str:
    """Return a text without the blanks around it.

    Raises:
        DataError: it is no text, there is nothing in it, or it cannot be written.
    """
    if not isinstance(value, str) or not (text := value.strip()):
        raise DataError(f"{where} has {value!r:.60} as {key!r}, but a text is wanted; repair it or take it out")
    if not text.isascii():
        writable(value, key, where)
    return text


def writable(text: str, key: str, where: object) -> str:
    """Return a text that can be printed, saved and tokenised: JSON can spell halves of characters ("\\ud800").

    Raises:
        DataError: it holds one.
    """
    if half := half_character(text):
        spelt, place = half
        raise DataError(
            f"{where} has half a character ({spelt}, a lone surrogate) at place {place} of {key!r}; repair it"
        )
    return text


def optional_text(record: Any, key: str, where: object) -> str:
    """Return `record[key]`, stripped; "" where there is no such key, or null or nothing in it.

    Raises:
        DataError: the record is no object, or there is something else in it.
    """
    value = required_key(record, key, where) if not isinstance(record, dict) or key in record else None
    return "" if value is None or value == "" else checked_text(value, key, where)


def required_list(record: Any, key: str, where: object) -> list[Any]:
    """Return `record[key]`; see `required_key`.

    Raises:
        DataError: there is no such key, or no list in it.
    """
    value = required_key(record, key, where)
    if not isinstance(value, list):
        raise DataError(f"{where} has {key!r} of type {type(value).__name__}, but a list is wanted; repair it")
    return value


def checked_texts(value: Any, key: str, where: object) -> tuple[str, ...]:
    """Return one text, or each of a list of them.

    Raises:
        DataError: one is no text, or the list is empty.
    """
    if not isinstance(value, list):
        return (checked_text(value, key, where),)
    if not value:
        raise DataError(f"{where} has an empty list as {key!r}, but texts are wanted; fill it or take it out")
    return tuple(checked_text(item, key, where) for item in value)


def shortened(text: str, most: int = 200) -> str:
    """Return a text for people to read, without its middle where it is long: names can fill a screen."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}...{text[-half:]} ({len(text):,} characters)"


def required_id(record: Any, key: str, where: object) -> str:
    """Return `record[key]`, a text or a whole number, as text.

    Raises:
        DataError: there is no such key, or something else in it.
    """
    value = required_key(record, key, where)
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise DataError(f"{where} has the {key} {value!r:.60}, but a text or a whole number is wanted; repair it")
    return writable(value, key, where) if isinstance(value, str) else str(value)


def required_key(record: Any, key: str, where: object) -> Any:
    """Return `record[key]`; in the error `str(where)` says which record it was ("a.json annotation 3").

    Raises:
        DataError: the record is no object or has no such key.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where} is {type(record).__name__}, but an object with {key!r} is wanted; repair it")
    if key not in record:
        raise DataError(f"{where} has no {key!r} (it has {', '.join(record) or 'nothing'}); add it")
    return record[key]
