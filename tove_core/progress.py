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
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show how far it is."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=note)
        elif not self.quiet and (done % self.every == 0 or done == self.total):
            print(f"{self.label} {done}/{self.total} {note}", file=sys.stderr, flush=True)
