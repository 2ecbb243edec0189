"""Comparisons of two runs over several seeds: means, spread, and intervals that cover seeds and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tove_core.errors import DataError
from tove_core.evaluation.compare import Comparison
from tove_core.evaluation.metrics.paired import Difference
from tove_core.evaluation.metrics.student import quantile


@dataclass(frozen=True)
class SeedsDifference:
    """One metric of two runs, A and B, over seeds.

    Attributes:
        name: the metric.
        a, b: mean scores of A and B.
        a_spread, b_spread: their standard deviations over seeds.
        by_seed: A - B of each seed.
        low, high: 95 % interval of the mean of A - B. Its half width is the root of the sum of two squares: Student's t
            times the standard error over seeds, and the half width over images, on average over seeds. Chance of images
            is in both, so it errs on the wide side.
    """

    name: str
    a: float
    a_spread: float
    b: float
    b_spread: float
    by_seed: tuple[float, ...]
    low: float
    high: float

    @property
    def difference(self) -> float:
        """What A has more than B, on average over seeds."""
        return fmean(self.by_seed)


@dataclass(frozen=True)
class OverSeeds:
    """Two runs by every metric of one task, over seeds."""

    task: str
    samples: int
    seeds: Sequence[int]
    differences: Sequence[SeedsDifference]

    def __str__(self) -> str:
        """Return a table."""
        width = max(len(one.name) for one in self.differences) + 2
        seeds = ", ".join(map(str, self.seeds))
        lines = [
            f"{self.task}: {self.samples} samples, seeds {seeds}; ± is the deviation over seeds",
            f"{'metric':<{width}}{'A':<18}{'B':<18}{'A - B':>8}  {'95 % interval':<20}by seed",
        ]
        for one in self.differences:
            sides = [f"{mean:.4f} ± {by:.4f}" for mean, by in ((one.a, one.a_spread), (one.b, one.b_spread))]
            span, each = f"{one.low:+.4f} to {one.high:+.4f}", " ".join(f"{value:+.4f}" for value in one.by_seed)
            lines.append(f"{one.name:<{width}}{sides[0]:<18}{sides[1]:<18}{one.difference:>+8.4f}  {span:<20}{each}")
        return "\n".join(lines)


def over_seeds(found: Mapping[int, Comparison]) -> OverSeeds:
    """Bring comparisons of the same two kinds of run on the same samples together, by seed.

    Raises:
        DataError: there are fewer than two, or they are of other tasks, samples or metrics.
    """
    each = list(found.values())
    if len(each) < 2:
        raise DataError(f"{len(each)} comparison is no spread over seeds; give two or more")
    kinds = {(one.task, one.samples, tuple(row.name for row in one.differences)) for one in each}
    if len(kinds) > 1:
        raise DataError(
            "comparisons of other tasks, samples or metrics cannot be brought together; images that can be read for "
            "some seeds alone lead there: run the command again"
        )
    rows = [_together(rows) for rows in zip(*(one.differences for one in each), strict=True)]
    return OverSeeds(each[0].task, each[0].samples, tuple(found), rows)


def _together(rows: Sequence[Difference]) -> SeedsDifference:
    by_seed = tuple(row.difference for row in rows)
    over_images = fmean((row.high - row.low) / 2 for row in rows)
    across = quantile(0.95, len(rows) - 1) * stdev(by_seed) / math.sqrt(len(rows))
    half, mean = math.hypot(over_images, across), fmean(by_seed)
    a, b = [row.a for row in rows], [row.b for row in rows]
    return SeedsDifference(rows[0].name, fmean(a), stdev(a), fmean(b), stdev(b), by_seed, mean - half, mean + half)
