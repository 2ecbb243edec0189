"""Reads what is wanted next in threads, while the caller works on what it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Gives `load(number)` for numbers; those that are expected are loaded in threads before they are asked for.

    Pillow and torch let other threads run while they decode and resample. What is given depends on the number alone,
    never on which thread was faster.

    Args:
        load: called with a number, perhaps in a thread; what it raises is raised where the number is asked for.
        workers: threads; 0: everything is loaded when it is asked for.

    Attributes:
        waited: seconds that callers have waited for what they asked for.
    """

    def __init__(self, load: Callable[[int], T], workers: int) -> None:
        self._load, self._workers = load, workers
        self._pool: ThreadPoolExecutor | None = None
        self._begun: dict[int, Future[T]] = {}
        self.waited = 0.0

    def expect(self, numbers: Iterable[int]) -> None:
        """Begin to load these, the first ones first, and forget what was expected before and is not among them."""
        if self._workers < 1:
            return
        self._pool = self._pool or ThreadPoolExecutor(self._workers, "tove-read")
        kept, self._begun = self._begun, {}
        for number in numbers:
            if number not in self._begun:
                self._begun[number] = kept.pop(number, None) or self._pool.submit(self._load, number)
        for future in kept.values():
            future.cancel()

    def __call__(self, number: int) -> T:
        """Return what `load` gives for a number; as long as it is expected, it is loaded once."""
        began = time.perf_counter()
        try:
            future = self._begun.get(number)
            return self._load(number) if future is None else future.result()
        finally:
            self.waited += time.perf_counter() - began

    def close(self) -> None:
        """Forget everything and end the threads; what is asked for later is loaded then."""
        self._begun = {}
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Self:
        """Return itself; it is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
