"""Scores of one file of predictions: each with its interval, per kind, and what could not be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tove_core.evaluation.metrics.bootstrap import intervals
from tove_core.evaluation.metrics.score import Candidates, Score, group_scores
from tove_core.evaluation.predictions import check_predictions
from tove_core.evaluation.references import Reference
from tove_core.evaluation.tasks import Measured, Task, check_task, clusters_of, kinds_of

SCORES = "scores.json"
"""File of a report in the folder of an evaluation."""


@dataclass(frozen=True)
class Row:
    """One metric: its value and 95 % interval (none where all samples are about one image), over `n` samples."""

    name: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Report:
    """What predictions scored.

    Attributes:
        task: name of the task.
        samples: how many were scored: all of the data set.
        images: how many images they are about; intervals draw whole images.
        rows: one per metric.
        kinds: per kind of question one row per metric; empty where there is one kind.
        absent: metrics that could not be computed, with the reason.
    """

    task: str
    samples: int
    images: int
    rows: Sequence[Row]
    kinds: Mapping[str, Sequence[Row]]
    absent: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        kinds = {name: {"n": rows[0].n, "scores": _plain(rows)} for name, rows in self.kinds.items()}
        counts = {"task": self.task, "samples": self.samples, "images": self.images}
        return {**counts, "scores": _plain(self.rows), "kinds": kinds, "absent": dict(self.absent)}

    def __str__(self) -> str:
        """Return tables."""
        width = max(len(row.name) for row in self.rows) + 2
        lines = [f"{self.task}: {self.samples} samples of {self.images} {'image' if self.images == 1 else 'images'}"]
        lines += [f"{'metric':<{width}}{'value':>8}  95 % interval"]
        lines += [f"{row.name:<{width}}{row.value:>8.4f}  {_interval(row)}" for row in self.rows]
        if self.kinds:
            # A line per kind and metric: side by side, five metrics with intervals are wider than a terminal.
            wide = max(len(name) for name in [*self.kinds, "kind"]) + 2
            lines += ["", f"{'kind':<{wide}}{'n':>7}  {'metric':<{width}}{'value':>8}  95 % interval"]
            lines += [
                f"{kind or '-':<{wide}}{row.n:>7}  {row.name:<{width}}{row.value:>8.4f}  {_interval(row)}"
                for kind, rows in self.kinds.items()
                for row in rows
            ]
        lines += [f"{name}: absent, {reason}" for name, reason in self.absent.items()]
        return "\n".join(lines)


def _plain(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    return {row.name: {"value": row.value, "low": row.low, "high": row.high, "n": row.n} for row in rows}


def _interval(row: Row) -> str:
    return "-" if row.low is None or row.high is None else f"{row.low:.4f} to {row.high:.4f}"


def report(task: Task, said: Candidates, references: Sequence[Reference]) -> Report:
    """Score what was said about every sample of a data set.

    Raises:
        DataError: predictions are missing or extra, or the data set is another task's.
    """
    measured = measure(task, said, references)
    scores = [*measured.scores, *measured.baselines]
    clusters = clusters_of(task, references)
    images = len({one.image for one in references})
    kinds = {kind: _rows(of_kind, clusters) for kind, of_kind in _kinds(task, scores, references).items()}
    return Report(task.name, len(references), images, _rows(scores, clusters), kinds, measured.absent)


def measure(task: Task, said: Candidates, references: Sequence[Reference]) -> Measured:
    """Return a task's scores with those of every sample, after the checks of `report`.

    Raises:
        DataError: predictions are missing or extra, or the data set is another task's.
    """
    check_task(task, references)
    check_predictions(said, [one.id for one in references])
    return task.measure(said, references)


def _rows(scores: Sequence[Score], clusters: Mapping[str, str]) -> list[Row]:
    return [
        Row(score.name, score.value, found.low if found else None, found.high if found else None, len(score))
        for score, found in zip(scores, intervals(scores, clusters), strict=True)
    ]


def _kinds(task: Task, scores: Sequence[Score], references: Sequence[Reference]) -> dict[str, list[Score]]:
    """Return the scores of each kind of question; none where there is one kind."""
    kinds = kinds_of(task, references)
    if len(set(kinds.values())) < 2:
        return {}
    # Consistency has groups of samples for samples, which have no kind.
    parts = [group_scores(score, kinds) for score in scores if score.samples.keys() <= kinds.keys()]
    return {name: [part[name] for part in parts] for name in parts[0]}
