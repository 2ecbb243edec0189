"""What a diagnosis holds: kinds of question with their differences, what each expert does for them, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tove_core.data.sample import Sample

_ERRORS = 0.05


@dataclass(frozen=True)
class Change:
    """A difference and its 95 % interval; no interval where all samples are about one image.

    Attributes:
        p: two-sided, of Student's t; None without an interval.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out; else 0."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def helps(self, chances: int) -> bool:
        """Whether it is above 0 even as one of so many that were looked at (Bonferroni, 5 % for all of them)."""
        return self.sign > 0 and self.p is not None and self.p * chances <= _ERRORS


@dataclass(frozen=True)
class Effect:
    """What one expert does for samples of one kind.

    Attributes:
        score: what switching it off takes from the score; above 0: the expert helps.
        loss: what switching it off adds to the answer loss, nats per token; above 0: the expert helps.
        gate: its mean gate over tokens and samples, 1 being equal weight; None without a gate. Not a measure of
            contribution.
    """

    score: Change
    loss: Change
    gate: float | None


class Through(NamedTuple):
    """The expert that samples are answered through, and by what that was seen: `score` or `loss`."""

    expert: str
    by: str


@dataclass(frozen=True)
class Row:
    """Samples of one kind.

    Attributes:
        kind: its name; "" where samples have none, and for the sum of all.
        n: how many samples.
        images: how many images they are about.
        run: score of the run.
        other: score of the other.
        difference: run - other.
        better: samples on which the run scores higher.
        worse: samples on which the other does.
        loss: the run's answer loss, nats per token.
        experts: what each expert does for them, by name.
    """

    kind: str
    n: int
    images: int
    run: float
    other: float
    difference: Change
    better: int
    worse: int
    loss: float
    experts: Mapping[str, Effect]

    @property
    def through(self) -> Through | None:
        """The expert that is missed most: by the score, or by the loss where no expert's absence clearly costs score.

        The best of several is often above 0 by chance. So an expert counts only where its cost is clear as one of all
        that are looked at here: of each expert the score's and the loss's. None: there is none.
        """
        chances = 2 * len(self.experts)
        for by in ("score", "loss"):
            changes = {name: one.score if by == "score" else one.loss for name, one in self.experts.items()}
            clear = {name: change.value for name, change in changes.items() if change.helps(chances)}
            if clear:
                return Through(max(clear, key=lambda name: clear[name]), by)
        return None

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        return {**asdict(self), "through": self.through and self.through._asdict()}


@dataclass(frozen=True)
class Part:
    """Questions, or captions, scored by one metric: all of them, and kind by kind."""

    task: str
    asks: bool
    metric: str
    total: Row
    kinds: Sequence[Row]

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        kinds = [row.plain() for row in self.kinds]
        return {"task": self.task, "metric": self.metric, "total": self.total.plain(), "kinds": kinds}


@dataclass(frozen=True)
class Example:
    """One sample on which the two differ.

    Attributes:
        sample: with its image.
        kind: the group it is counted in.
        metric: what its scores are.
        run: what the run said.
        other: what the other said.
        run_score: score of that.
        other_score: score of the other's.
        gates: each expert's gate over the M images of the sample, [M, rows, columns]; empty without a gate.
    """

    sample: Sample
    kind: str
    metric: str
    run: str
    other: str
    run_score: float
    other_score: float
    gates: Mapping[str, np.ndarray] = field(repr=False, compare=False, default_factory=dict)

    @property
    def better(self) -> bool:
        """Whether the run scores higher."""
        return self.run_score > self.other_score

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it; no pixels."""
        gates = {name: np.round(maps.astype(float), 4).tolist() for name, maps in self.gates.items()}
        said = {"run": self.run, "other": self.other, "run_score": self.run_score, "other_score": self.other_score}
        asked = {"id": self.sample.id, "question": self.sample.prompt, "targets": list(self.sample.targets)}
        return {**asked, "kind": self.kind, "metric": self.metric, **said, "gates": gates}


@dataclass(frozen=True)
class Diagnosis:
    """A run beside another one, kind by kind and expert by expert.

    Attributes:
        run: what the run is called.
        other: what the other is called.
        bare: whether the other is the run itself with every expert off.
        samples: how many were compared.
        images: how many images they are about.
        rule: how experts were switched off.
        experts: the run's experts that are on.
        view: region of the image the run sees.
        parts: questions and captions, each where there are any.
        examples: samples on which the two differ.
        left_out: samples that were given and not compared: unreadable images, or another task's.
    """

    run: str
    other: str
    bare: bool
    samples: int
    images: int
    rule: str
    experts: tuple[str, ...]
    view: str
    parts: Sequence[Part]
    examples: Sequence[Example]
    left_out: int = 0

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        head = {"run": self.run, "other": self.other, "other_is_run_without_experts": self.bare}
        counts = {"samples": self.samples, "images": self.images, "left_out": self.left_out}
        told = {"experts": list(self.experts), "rule": self.rule, "interval": 0.95}
        parts, examples = [part.plain() for part in self.parts], [one.plain() for one in self.examples]
        return {**head, **counts, **told, "parts": parts, "examples": examples}

    def __str__(self) -> str:
        """Return a table: kinds with their difference, its interval, and what each expert's absence costs."""
        lines = [
            f"A: {self.run}",
            f"B: {self.other}",
            f"{self.samples} samples of {self.images} {'image' if self.images == 1 else 'images'}",
        ]
        for part in self.parts:
            rows = [("all", part.total), *((row.kind or "-", row) for row in part.kinds if len(part.kinds) > 1)]
            wide = max(len(name) for name, _ in [*rows, ("kind", None)]) + 2
            experts = "".join(f"  {name:>8}" for name in self.experts)
            lines += ["", f"{part.metric}; under each expert what switching it off takes from A"]
            lines.append(f"{'kind':<{wide}}{'n':>7}{'A':>8}{'B':>8}{'A - B':>8}  {'95 % interval':<18}{experts}")
            lines += [f"{name:<{wide}}{self._cells(row)}" for name, row in rows]
        return "\n".join(lines)

    def _cells(self, row: Row) -> str:
        change = row.difference
        span = "-" if change.low is None else f"{change.low:+.3f} to {change.high:+.3f}"
        costs = "".join(f"  {one.score.value:>+{max(8, len(name))}.3f}" for name, one in row.experts.items())
        return f"{row.n:>7}{row.run:>8.3f}{row.other:>8.3f}{change.value:>+8.3f}  {span:<18}{costs}"
