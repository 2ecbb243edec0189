"""Which shards a data set's path means: files, folders and URLs, with ranges such as shard-{000..009}.tar."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from tove_core.data import buckets
from tove_core.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)")
MOST = 1_000_000
"""No pattern means more names than that."""


def url_of(path: Path) -> str | None:
    """Return the URL that was given as a path, which writes its two slashes as one; None where it is a path.

    Raises:
        DataError: it is a URL that cannot be fetched.
    """
    found = _URL.fullmatch(path.as_posix())
    if found is None:
        return None
    scheme = found[1].lower()
    if scheme not in ("http", "https") and not buckets.known(scheme):
        raise DataError(
            f"{found[1]}:// was given as data.path, but shards are read from http://, https:// and what fsspec knows "
            "(s3://, gs://, hf:// and others); copy them"
        )
    return f"{scheme}://{found[2]}"


def expanded(pattern: str) -> list[str]:
    """Return the names a pattern means, in order: `{000..009}` counts, `{a,b}` lists.

    Raises:
        DataError: a range runs backwards, or there are more than a million names.
    """
    pieces = _BRACES.split(pattern)  # text and what braces hold, by turns
    choices = [[piece] if place % 2 == 0 else _choices(piece, pattern) for place, piece in enumerate(pieces)]
    count = 1
    for one in choices:
        count *= len(one)
    if count > MOST:
        raise DataError(f"{pattern} means {count:,} names, more than {MOST:,}; check its ranges")
    return ["".join(one) for one in product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= MOST:
        raise DataError(f"{pattern} has the range {inside}; the first number comes first, up to {MOST:,} of them")
    # As in a shell: written as wide as the wider end where an end has zeros in front.
    padded = any(len(end) > 1 and end[0] == "0" for end in found.groups())
    width = max(map(len, found.groups())) if padded else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]
