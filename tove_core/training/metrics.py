"""What a run reports while it trains: one JSON line per logged step, and a line or a bar for people."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tove_core.config import TrainingConfig
from tove_core.errors import CheckpointError
from tove_core.folders import write_file
from tove_core.progress import Display
from tove_core.run_folder import go_on
from tove_core.training.health import dead_experts, diagnosis
from tove_core.training.optimise import schedule
from tove_core.training.trackers import Trackers

if TYPE_CHECKING:
    from tove_core.model import ToveModel
    from tove_core.training.engine import Report

METRICS = "metrics.jsonl"


class MetricsFile:
    """`metrics.jsonl`, appended to; lines past the step a run resumes from are dropped first. Its folder is made.

    Raises:
        CheckpointError: it cannot be read or written.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path.parent} cannot be made ({error}); give another folder") from error
        if path.is_file():
            kept = [line for line in _lines(path) if _step(line) <= first_step]
            write_file(path, "".join(line + "\n" for line in kept))  # a process killed here loses no line

    def write(self, **values: Any) -> None:
        """Append one line, all of it or nothing.

        Raises:
            CheckpointError: it cannot be written.
        """
        before = None
        try:
            with self.path.open("ab", buffering=0) as file:
                before = file.tell()
                line = (json.dumps(values) + "\n").encode()
                while line:  # a disk that fills up takes a part
                    line = line[file.write(line) :]
        except OSError as error:
            if before is not None:
                with suppress(OSError):
                    os.truncate(self.path, before)
            raise CheckpointError(
                f"{self.path} cannot be written ({error}); the states and lines before are kept: make room, then go on "
                f"with {go_on(self.path.parent)}"
            ) from error


def last_step(path: Path) -> int:
    """Return the last step that a metrics file tells of, 0 where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    steps = [step for line in (_lines(path) if path.is_file() else []) if (step := _step(line)) < sys.maxsize]
    return max(steps, default=0)


def _lines(path: Path) -> list[str]:
    try:
        # What is no text was torn by a crash, as a line that is no JSON is.
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give the folder of a run") from error


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a line torn by a crash


class Reporter:
    """Where every step of a run goes: the metrics file, trackers, progress, and a warning when the gate collapses.

    Args:
        model: what is trained.
        config: how.
        label: what the progress is called.
        output: folder of the metrics file; None: nothing is written.
        first_step: the step a run goes on from.
        quiet: show no progress; a warning is shown all the same.
        speaks: whether this process is the one that shows anything.
    """

    def __init__(
        self,
        model: ToveModel,
        config: TrainingConfig,
        label: str,
        output: Path | None,
        first_step: int,
        *,
        quiet: bool,
        speaks: bool = True,
    ) -> None:
        self.config, self.gate, self.quiet = config, model.config.fusion.gate, quiet or not speaks
        self.speaks = speaks
        self.file = MetricsFile(output / METRICS, first_step) if output else None
        self.trackers = Trackers(config.trackers, output, model.config, first_step) if output else None
        self.display = Display(config.steps, label, quiet=self.quiet)
        self._said: set[str] = set()
        self._held_out = ""
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Show the progress."""
        self._open.enter_context(self.display)
        if self.trackers is not None:
            self._open.callback(self.trackers.close)
        return self

    def __exit__(self, *error: object) -> None:
        """Take the progress away and close the trackers."""
        self._open.close()

    def writes(self, done: int, held_out: float | None = None) -> bool:
        """Whether a step is logged."""
        return held_out is not None or done % self.config.log_every == 0 or done == self.config.steps

    def step(self, done: int, report: Report, rate: float, held_out: float | None = None) -> None:
        """Report a step, `rate` samples per second, and the loss on held-out samples where it was measured."""
        if self.writes(done, held_out):
            self._log(done, report, rate, held_out)
        if held_out is not None:
            self._held_out = f"  held-out loss {held_out:.3f}"
        if self.quiet:
            return
        note = f"loss {report.loss:.3f}{self._held_out}  {rate:.0f} samples/s"
        if report.spread is not None:
            note += f"  gate entropy {report.spread:.2f}"
        if report.shares:
            note += "  " + " ".join(f"{name} {share:.0%}" for name, share in report.shares.items())
        self.display.update(done, note)

    def _log(self, done: int, report: Report, rate: float, held_out: float | None) -> None:
        shares = report.shares and {name: round(share, 4) for name, share in report.shares.items()}
        values: dict[str, Any] = {
            "loss": round(report.loss, 6),
            "balance": round(report.balance, 6),
            "learning_rate": schedule(done - 1, self.config) * self.config.learning_rate,
            "samples_per_second": round(rate, 1),
            "gate": shares,
            "gate_entropy": None if report.spread is None else round(report.spread, 4),
            "dead": dead_experts(report.shares or {}),
            "warning": self._warn(done, report),
        }
        if held_out is not None:
            values["val_loss"] = round(held_out, 6)
        if self.file:
            self.file.write(step=done, **values)
        if self.trackers:
            self.trackers.log(done, values)

    def _warn(self, done: int, report: Report) -> str | None:
        """Return what is wrong with the gate, if anything; the first time, say it and what to change."""
        if done <= self.gate.balance_warmup or not report.shares:
            return None
        found = diagnosis(report.shares, report.spread, self.gate)
        if found is None:
            return None
        kind = found.partition(";")[0].partition(":")[0]
        if kind not in self._said and self.speaks:
            print(f"note: step {done}: {found}", file=sys.stderr, flush=True)
        self._said.add(kind)
        return kind
