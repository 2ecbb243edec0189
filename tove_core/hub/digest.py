"""The sha256 of files: computed once per file and process, and compared with what is expected."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from tove_core.errors import WeightsError


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits; repeated calls are free while size and mtime stay.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        real = path.resolve()
        state = real.stat()
        return _digest(real, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(path: Path, expected: str | None, *, said_by: str, advice: str) -> str:
    """Return the sha256 of a file after comparing it with the expected one (None: anything is accepted).

    Raises:
        WeightsError: it differs; the sentence names both hashes, who expected which (`said_by`), and ends in `advice`.
    """
    found = sha256(path)
    if expected is not None and found != expected:
        raise WeightsError(f"{path} has sha256 {found[:16]}..., {said_by} says {expected[:16]}...; {advice}")
    return found
