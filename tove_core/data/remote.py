"""Shards from elsewhere: each is fetched once into a folder of this machine, whole or not at all, and read from there.

Training asks for any sample at any step and resumes exactly, so shards are not streamed past it: they become files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from tove_core import environment
from tove_core.data.transport import Broken, Refused, Stale, transport
from tove_core.errors import DataError

WAITS = (1.0, 4.0, 15.0)
"""Seconds before each further try."""
_BLOCK = 1 << 20


def cache_folder() -> Path:
    """Return where shards are kept: TOVE_DATA_CACHE, else the folder `data` of TOVE_HOME."""
    given = environment.variable(environment.DATA_CACHE)
    return Path(given).expanduser() if given else environment.home() / "data"


def fetch_shard(url: str) -> Path:
    """Return the local file of a URL, fetched if it is not there.

    A download that was cut off, by the network or by a kill, goes on where it stopped if the server says that the
    file is still the same, else it begins again. Its length must be what the server said. Processes that want the same
    file wait for the one that fetches it.

    Raises:
        DataError: it is not there and cannot be fetched, or what is there is not what was fetched.
    """
    name = unquote(PurePosixPath(urlsplit(url).path).name) or "shard"
    folder = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    file = folder / name
    if _is_whole(file):
        return file
    if environment.offline():
        raise DataError(
            f"{shown(url)} is not in {cache_folder()} and downloads are switched off; unset "
            f"{' and '.join(environment.OFFLINE)}, or fetch it once while there is a connection"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not _is_whole(file):
                _fetch(url, file)
    except OSError as error:
        raise DataError(
            f"{file} cannot be written ({error}); set {environment.DATA_CACHE} to another folder"
        ) from error
    return file


def shown(url: str) -> str:
    """Return a URL without its query, which may hold a signature."""
    return url.partition("?")[0]


def _is_whole(file: Path) -> bool:
    """Tell whether a file is there, as long as it was when it was fetched.

    Raises:
        DataError: it is there and has another length.
    """
    if not file.is_file():
        return False
    wanted, found = _notes(file).get("length"), file.stat().st_size
    if wanted != found:
        raise DataError(f"{file} has {found:,} bytes, but {wanted} were fetched; delete it to fetch it again")
    return True


def _fetch(url: str, file: Path) -> None:
    part = file.with_name(f"{file.name}.part")
    for number, wait in enumerate((*WAITS, None), start=1):
        try:
            _go_on(url, part)
            break
        except Refused as error:
            _give_up(url, error, 1)
        except Broken as error:
            if isinstance(error, Stale):
                part.unlink(missing_ok=True)
            if wait is None:
                _give_up(url, error, number)
            print(f"{shown(url)}: {error}; another try in {wait:g} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    _write_notes(file, {"url": shown(url), "length": part.stat().st_size})
    part.replace(file)  # last, so that a file that is there is whole and has its notes
    _notes_of(part).unlink(missing_ok=True)


def _go_on(url: str, part: Path) -> None:
    """Make one request for what is missing of a file.

    Raises:
        Broken: the answer was short, or may be another next time.
        Refused: no further try would help.
        DataError: there is no room for it.
    """
    same = _notes(part).get("same")
    have = part.stat().st_size if part.is_file() and same else 0
    with transport(url)(url, have, same) as answer:
        begin, total = answer.begin, answer.total
        if not have or begin == 0:
            size = "of unknown length" if total is None else f"{total:,} bytes"
            print(f"fetching {shown(url)} ({size}) into {part.parent}", file=sys.stderr, flush=True)
        _require_room(part, (total or 0) - begin)
        if not begin:
            part.unlink(missing_ok=True)  # first: no tag may ever stand beside the bytes of another file
        _write_notes(part, {"same": answer.same})
        with part.open("r+b" if begin else "wb") as file:
            file.seek(begin)
            file.truncate()
            while block := answer.read(_BLOCK):
                file.write(block)
                file.flush()  # what has come outlives this process
            end = file.tell()
    if total is not None and end != total:
        raise Broken(f"the answer ended after {end:,} of {total:,} bytes")


def _require_room(part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise DataError(
            f"{missing:,} bytes are missing of {part.name.removesuffix('.part')}, but the disk of {part.parent} has "
            f"{free:,} free; make room, or set {environment.DATA_CACHE} to another disk"
        )


def _give_up(url: str, error: Exception, tries: int) -> NoReturn:
    told = f" after {tries} tries" if tries > 1 else ""
    raise DataError(
        f"{shown(url)} cannot be fetched{told} ({error}); check the address and the connection, or set "
        f"{environment.OFFLINE[0]}=1 to use what was fetched before"
    ) from error


def _notes_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _notes(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(_notes_of(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_notes(file: Path, notes: Mapping[str, Any]) -> None:
    temporary = _notes_of(file).with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(dict(notes)), encoding="utf-8")
    temporary.replace(_notes_of(file))
