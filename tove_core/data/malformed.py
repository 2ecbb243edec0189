"""Malformed rows of a data set: the first ends reading, unless somebody asks for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from tove_core.errors import DataError

_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


@contextmanager
def noting() -> Iterator[list[str]]:
    """Leave malformed rows out within the block; what is wrong with each is in the list that is given.

    Everywhere else a malformed row is an error: nobody trains on a part of a data set unawares.
    """
    noted: list[str] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


class _OneRow:
    """The work on one row of a data set, as a context: within `noting` its DataError is noted and goes no further.

    A reader puts all it does with a row into one, and nothing that concerns the whole file.
    """

    def __enter__(self) -> None:
        """Begin a row."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        """End it."""
        if not isinstance(error, DataError) or (noted := _noted.get()) is None:
            return False
        noted.append(str(error))
        return True


one_row = _OneRow()
"""The one there is: it remembers nothing, and a million rows need no more."""
