"""Files from wherever fsspec reaches: s3://, gs://, abfs://, hf:// and others, each through a package of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tove_core.data.transport import Answer, Broken, Refused, Stale
from tove_core.errors import DataError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""tove's own extras by scheme."""
_NOT_REMOTE = frozenset({"file", "local", "memory", "http", "https"})
_TAGS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
"""What the file systems of fsspec call that which changes with a file, the surest first."""


def known(scheme: str) -> bool:
    """Tell whether fsspec knows such addresses, whether or not the package it needs for them is installed."""
    from fsspec.registry import known_implementations, registry

    return scheme not in _NOT_REMOTE and (scheme in known_implementations or scheme in registry)


@contextmanager
def opened(url: str, have: int, same: str | None) -> Iterator[Answer]:
    """Be a `Transport`.

    Raises:
        DataError: a package is missing.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
        system.invalidate_cache()  # the last try may have left what it knew
        told = system.info(path)
        file = system.open(path, "rb")
    except ImportError as error:
        scheme = url.partition(":")[0]
        advice = f"pip install 'tove-core[{EXTRAS[scheme]}]'" if scheme in EXTRAS else "install that"
        raise DataError(f"{scheme}:// was given as data.path and needs a package ({error}); {advice}") from error
    except Exception as error:  # each file system raises what its own packages do
        raise _sorted(error) from error
    with file:
        begin, total, tag = 0, told.get("size"), _tag(told)
        if have and same is not None and same == tag:
            begin = have
            try:
                file.seek(begin)
            except Exception as error:  # as above, and some cannot begin in the middle
                raise Stale(f"it cannot be read from byte {begin} on: {error}") from error

        def read(most: int) -> bytes:
            try:
                return file.read(most)
            except Exception as error:  # as above
                raise _sorted(error) from error

        yield Answer(begin, total, tag, read)


def _tag(told: Mapping[str, Any]) -> str | None:
    return next((f"{name} {told[name]}, {told.get('size')} bytes" for name in _TAGS if told.get(name)), None)


def _sorted(error: Exception) -> Broken | Refused:
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return Refused("there is no such file")
    # No credentials, a wrong address, what the file system cannot do: another try does not help.
    refused = isinstance(error, (PermissionError, ValueError, NotImplementedError, IsADirectoryError))
    return Refused(words) if refused else Broken(words)
