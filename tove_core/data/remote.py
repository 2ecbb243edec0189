"""Shards from the web: each is fetched once into a folder of this machine, whole or not at all, and read from there.

Training asks for any sample at any step and resumes exactly, so shards are not streamed past it: they become files.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from tove_core import environment
from tove_core.errors import DataError

WAITS = (1.0, 4.0, 15.0)
"""Seconds before each further try."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""
_BLOCK = 1 << 20
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another try may improve on."""


class _Broken(Exception):
    """A try that failed and may be repeated."""


_PASSING = (
    _Broken,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    http.client.HTTPException,
    urllib.error.URLError,
)
"""What ends a connection."""


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
    for wait in (*WAITS, None):
        try:
            _go_on(url, part)
            break
        except _PASSING as error:
            if wait is None:
                _give_up(url, error, len(WAITS) + 1)
            print(f"{shown(url)}: {_reason(error)}; another try in {wait:g} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    _write_notes(file, {"url": shown(url), "length": part.stat().st_size})
    part.replace(file)  # last, so that a file that is there is whole and has its notes
    _notes_of(part).unlink(missing_ok=True)


def _go_on(url: str, part: Path) -> None:
    """Make one request for what is missing of a file.

    Raises:
        _Broken: the answer was short, or may be another next time.
        DataError: no further try would help.
    """
    notes = _notes(part)
    have = part.stat().st_size if part.is_file() and notes.get("same") else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "tove"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["same"]}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # what is here is not the beginning of what is there
                part.unlink(missing_ok=True)
            elif error.code not in _AGAIN:
                _give_up(url, error, 1)
        raise _Broken(f"the server answered {error.code} {error.reason}") from error
    with answer:
        begin, total = _extent(answer.status, answer.headers, have)
        if not have or begin == 0:
            size = "of unknown length" if total is None else f"{total:,} bytes"
            print(f"fetching {shown(url)} ({size}) into {part.parent}", file=sys.stderr, flush=True)
        _require_room(part, (total or 0) - begin)
        if not begin:
            part.unlink(missing_ok=True)  # first: no tag may ever stand beside the bytes of another file
        _write_notes(part, {"same": _same(answer.headers)})
        with part.open("r+b" if begin else "wb") as file:
            file.seek(begin)
            file.truncate()
            while block := answer.read1(_BLOCK):
                file.write(block)
                file.flush()  # what has come outlives this process
            end = file.tell()
    if total is not None and end != total:
        raise _Broken(f"the answer ended after {end:,} of {total:,} bytes")


def _extent(status: int, headers: Mapping[str, str], have: int) -> tuple[int, int | None]:
    """Return with which byte an answer begins, and how many the file has in all; None: the server does not say."""
    if status != 206:
        length = headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(have) or not total.isdigit():
        raise _Broken(f"bytes from {have} were asked for, and {headers.get('Content-Range')!r} was given")
    return have, int(total)


def _same(headers: Mapping[str, str]) -> str | None:
    """Return what lets a later request make sure that the file is the same; weak tags do not."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


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
        f"{shown(url)} cannot be fetched{told} ({_reason(error)}); check the address and the connection, or set "
        f"{environment.OFFLINE[0]}=1 to use what was fetched before"
    ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    return str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__


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
