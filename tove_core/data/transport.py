"""What fetching a shard asks of the way it comes by, and the ways there are: the web, and buckets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class Broken(Exception):
    """A try that failed and may be repeated."""


class Stale(Broken):
    """What is here is not the beginning of what is there: the next try begins anew."""


class Refused(Exception):
    """No further try would help."""


class Answer(NamedTuple):
    """A file that is being sent."""

    begin: int
    """Its first byte that comes."""
    total: int | None
    """How many bytes it has in all; None: nobody says."""
    same: str | None
    """What tells a later request that the file is still the same; None: nothing does."""
    read: Callable[[int], bytes]
    """Returns up to so many bytes, none at the end. Raises Broken or Refused."""


class Transport(Protocol):
    """Asks for a file, from its first byte, or from byte `have` if it is still the one that was the `same`."""

    def __call__(self, url: str, have: int, same: str | None) -> AbstractContextManager[Answer]:
        """Return the answer, which is open within the block.

        Raises:
            Broken: there is none now.
            Refused: there will be none.
        """
        ...


def transport(url: str) -> Transport:
    """Return the way that a URL's scheme asks for."""
    if url.startswith(("http://", "https://")):
        from tove_core.data import web

        return web.opened
    from tove_core.data import buckets

    return buckets.opened
