"""How far something is, for people: a bar or plain lines. No torch."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """A progress bar on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, total: int, label: str, *, quiet: bool = False, every: int = 100) -> None:
        self.total, self.label, self.every = total, label, every
        self.console = Console(stderr=True)
        self.quiet = quiet
        self.bar: Progress | None = None
        self._done = self._shown = 0
        self._note = ""

    def __enter__(self) -> Self:
        """Show the bar."""
        if self.console.is_terminal and not self.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self.bar = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console
            )
            self.task = self.bar.add_task(self.label, total=self.total, note="")
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Take the bar away; where there is none, say how far it came, unless an error does."""
        if self.bar is not None:
            self.bar.stop()
        elif error is None and self._done != self._shown:
            self._line()

    def update(self, done: int, note: str = "") -> None:
        """Show how far it is; as a line, whenever another `every` are done, and at the end."""
        last, self._done, self._note = self._done, done, note
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=note)
        elif done // self.every > last // self.every or (done == self.total and done != self._shown):
            self._line()

    def _line(self) -> None:
        self._shown = self._done
        if not self.quiet:
            print(f"{self.label} {self._done}/{self.total} {self._note}", file=sys.stderr, flush=True)
