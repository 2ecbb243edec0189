"""Evaluations of several models on the same data, side by side: every score with its interval, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.manifest import MANIFEST, read_manifest
from tove_core.evaluation.metrics.score import first_ids
from tove_core.evaluation.report import SCORES, Row

_CONFIG = "config.yaml"
_COSTS: tuple[tuple[str, Callable[[Mapping[str, Any]], str | None]], ...] = (
    ("samples/s", lambda cost: _number(cost.get("samples_per_second"), ".1f")),
    ("latency, ms", lambda cost: _number(cost.get("latency"), ".1f", 1000)),
    ("peak memory, MiB", lambda cost: _number(cost.get("peak_memory"), ".0f", 1 / 2**20)),
    ("memory of", lambda cost: cost.get("memory_of")),
    ("GFLOP", lambda cost: _number(cost.get("gflop"), ".3g")),
    ("device", lambda cost: cost.get("device")),
)


@dataclass(frozen=True)
class Evaluated:
    """What the folder of a finished evaluation says.

    Attributes:
        folder: where it lies.
        task: what was scored.
        data: hash of what is right.
        samples: how many there are.
        unreadable: ids of those that were left out, because their images could not be read.
        scores: by metric.
        absent: metrics that could not be computed.
        generation: options that decide what is said.
        cost: what a line of the table says of it; None where it was not measured.
        measured: the cost as the manifest has it.
    """

    folder: Path
    task: str
    data: str
    samples: int
    unreadable: frozenset[str]
    scores: Mapping[str, Row]
    absent: Sequence[str]
    generation: Mapping[str, Any]
    cost: Mapping[str, str | None]
    measured: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        scores = {
            name: {"value": row.value, "low": row.low, "high": row.high, "n": row.n}
            for name, row in self.scores.items()
        }
        return {
            "folder": str(self.folder),
            "task": self.task,
            "data": self.data,
            "samples": self.samples,
            "unreadable": sorted(self.unreadable),
            "scores": scores,
            "absent": list(self.absent),
            "generation": dict(self.generation),
            "cost": dict(self.measured),
        }


@dataclass(frozen=True)
class Table:
    """Evaluations on the same data as columns.

    Attributes:
        task: what was scored.
        samples: how many.
        folders: one per column.
        rows: what each line says of every folder; None: nothing is known.
    """

    task: str
    samples: int
    folders: Sequence[Path]
    rows: Mapping[str, Sequence[str | None]]

    def __str__(self) -> str:
        """Return the table below the names of its columns."""
        names = [_letters(number) for number in range(len(self.folders))]
        cells = [[text or "-" for text in row] for row in self.rows.values()]
        wide = max(map(len, self.rows)) + 2
        widths = [max(len(text) for text in column) for column in zip(names, *cells, strict=True)]
        lines = [f"{name}: {folder}" for name, folder in zip(names, self.folders, strict=True)]
        lines += [f"{self.task}: {self.samples} samples; scores with their 95 % intervals"]
        for title, row in zip(("", *self.rows), (names, *cells), strict=True):
            told = "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
            lines.append(f"{title:<{wide}}{told}".rstrip())
        return "\n".join(lines)


def is_evaluation(folder: Path) -> bool:
    """Return whether a folder is that of an evaluation, and not of a training run."""
    return (folder / MANIFEST).is_file() and not (folder / _CONFIG).is_file()


def read_comparable(folders: Sequence[Path]) -> list[Evaluated]:
    """Read the evaluations of several folders, of one task on the same data.

    Raises:
        ConfigError: fewer than two are given, one did not finish, or tasks, data or readable images differ.
        DataError: a file is malformed.
    """
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} evaluation was given, but two or more are compared; name another folder")
    found = [read_evaluation(folder) for folder in folders]
    first = found[0]
    for other in found[1:]:
        if other.task != first.task:
            raise ConfigError(
                f"{first.folder} was scored for task {first.task!r} and {other.folder} for {other.task!r}, whose "
                "figures mean different things; evaluate both for one task"
            )
        if other.data != first.data:
            raise ConfigError(
                f"{first.folder} and {other.folder} were evaluated on different data ({first.samples} samples with "
                f"hash {first.data[:8]}, {other.samples} with {other.data[:8]}); evaluate both on one data set"
            )
        if odd := sorted(other.unreadable ^ first.unreadable):
            raise ConfigError(
                f"{first.folder} and {other.folder} scored different samples: the images of {len(odd)} "
                f"({first_ids(odd)}) could be read for one alone; evaluate again, or compare two by 'tove score A "
                "--against B', which takes the samples that both answered"
            )
    return found


def side_by_side(folders: Sequence[Path]) -> Table:
    """Return the evaluations of several folders as one table.

    Raises:
        ConfigError: fewer than two are given, one did not finish, or tasks, data or readable images differ.
        DataError: a file is malformed.
    """
    found = read_comparable(folders)
    metrics = dict.fromkeys(name for one in found for name in (*one.scores, *one.absent))
    options = dict.fromkeys(name for one in found for name in one.generation)
    rows: dict[str, list[str | None]] = {name: [_score(one, name) for one in found] for name in metrics}
    rows |= {name: [one.cost[name] for one in found] for name, _ in _COSTS}
    rows |= {name: [str(one.generation[name]) if name in one.generation else None for one in found] for name in options}
    first = found[0]
    scored = first.samples - len(first.unreadable)
    return Table(first.task, scored, [one.folder for one in found], rows)


def read_evaluation(folder: Path) -> Evaluated:
    """Read the scores and the manifest of a folder that `tove evaluate --out` wrote.

    Raises:
        ConfigError: the folder holds no finished evaluation.
        DataError: a file is malformed.
    """
    manifest, path = read_manifest(folder), folder / SCORES
    if manifest is None or not path.is_file():
        what = "no evaluation" if manifest is None else "an evaluation that did not finish"
        missing = MANIFEST if manifest is None else SCORES
        raise ConfigError(f"{folder} holds {what} ({missing} is missing); run tove evaluate --out {folder}")
    try:
        scores, cost = json.loads(path.read_text(encoding="utf-8")), manifest.get("cost") or {}
        return Evaluated(
            folder,
            str(manifest["task"]),
            str(manifest["data"]["sha256"]),
            int(manifest["data"]["samples"]),
            frozenset(manifest.get("unreadable") or ()),
            {name: _row(name, row) for name, row in scores["scores"].items()},
            list(scores["absent"]),
            dict(manifest["generation"]),
            {name: read(cost) for name, read in _COSTS},
            dict(cost),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} holds a {SCORES} or {MANIFEST} of unknown form ({type(error).__name__}: {error}); run tove "
            "evaluate again"
        ) from error


def _row(name: str, told: Mapping[str, Any]) -> Row:
    low, high = (None if told[end] is None else float(told[end]) for end in ("low", "high"))
    return Row(name, float(told["value"]), low, high, int(told["n"]))


def _score(one: Evaluated, name: str) -> str | None:
    row = one.scores.get(name)
    if row is None:
        return "absent" if name in one.absent else None
    span = "" if row.low is None or row.high is None else f" ({row.low:.4f} to {row.high:.4f})"
    return f"{row.value:.4f}{span}"


def _number(value: float | None, form: str, times: float = 1) -> str | None:
    return None if value is None else f"{value * times:{form}}"


def _letters(number: int) -> str:
    """Return A to Z, then A2 to Z2, and so on."""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")
