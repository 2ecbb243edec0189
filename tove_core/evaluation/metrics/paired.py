"""Whether two runs differ on the same samples: paired bootstrap, and McNemar's exact test for right or wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tove_core.errors import DataError
from tove_core.evaluation.metrics.bootstrap import RESAMPLES, draws, numbered
from tove_core.evaluation.metrics.score import Score, first_ids
from tove_core.evaluation.metrics.student import corrected, inside, tails


@dataclass(frozen=True)
class Difference:
    """One metric of two runs, A and B, on the same samples.

    Attributes:
        name: the metric.
        a: score of A.
        b: score of B.
        low: lower end of the 95 % interval of a - b (or of the level asked for).
        high: upper end.
        p: two-sided, of the paired bootstrap: how often a resampled set turns the sign of a - b, corrected for how few
            the images are.
        sure: two-sided p of Student's t, a - b by its bootstrap standard error. It can be as small as levels that are
            divided among many comparisons, which `p` cannot.
        only_a: samples that A alone has right; None for a metric that is not right or wrong.
        only_b: samples that B alone has right.
        mcnemar: two-sided p of McNemar's exact test on them; it takes samples for independent.
    """

    name: str
    a: float
    b: float
    low: float
    high: float
    p: float
    sure: float
    only_a: int | None = None
    only_b: int | None = None
    mcnemar: float | None = None

    @property
    def difference(self) -> float:
        """What A has more than B; of scores, a gain of A is above 0."""
        return self.a - self.b


def compare(
    a: Score,
    b: Score,
    clusters: Mapping[str, str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compare two runs' scores by one metric: the same samples are drawn for both.

    The least p that R resamples can show is 2 / (R + 1), and more where there are few clusters.

    Args:
        a: of the first run.
        b: of the second, on the same samples.
        clusters: samples that belong together (one image's questions) by id, drawn together; None: each its own.
        level: probability that the interval holds the true difference.
        resamples: sets that are drawn.
        seed: the same gives the same figures.

    Raises:
        DataError: metrics or samples differ, or there is one cluster alone.
    """
    if a.name != b.name:
        raise DataError(f"{a.name} and {b.name} cannot be compared; give two runs' scores by one metric")
    if strays := sorted(a.samples.keys() ^ b.samples.keys()):
        raise DataError(
            f"{len(strays)} samples were scored in one run alone ({first_ids(strays)}); score both on the same data"
        )
    if list(a.samples) != list(b.samples):
        raise DataError("two runs scored the same samples in another order; score both with the same references")
    changes = np.concatenate(
        [a.of_weights(w) - b.of_weights(w) for w in draws(list(a.samples), clusters, resamples=resamples, seed=seed)]
    )
    clusters_drawn = numbered(list(a.samples), clusters)[1]
    low, high = map(float, np.quantile(changes, tails(level, clusters_drawn)))
    tail = min(int((changes <= 0).sum()), int((changes >= 0).sum()))
    p = corrected(min(1.0, 2 * (tail + 1) / (len(changes) + 1)), clusters_drawn)
    sure = _by_student(a.value - b.value, changes, clusters_drawn)
    pairs = [(a.samples[name], b.samples[name]) for name in a.samples]
    if not a.judges or a.weighted is not None or any(value not in (0.0, 1.0) for pair in pairs for value in pair):
        return Difference(a.name, a.value, b.value, low, high, p, sure)
    only_a, only_b = sum(x > y for x, y in pairs), sum(y > x for x, y in pairs)
    return Difference(a.name, a.value, b.value, low, high, p, sure, only_a, only_b, mcnemar(only_a, only_b))


def _by_student(difference: float, changes: np.ndarray, clusters: int) -> float:
    """Return the two-sided p of a difference, not below that of as many clusters that all lean the same way."""
    least, error = 2.0 ** (1 - clusters), float(changes.std()) * math.sqrt(clusters / (clusters - 1))
    if not error:
        return least if difference else 1.0
    return max(least, 1 - inside(abs(difference) / error, clusters - 1))


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p of McNemar's exact test: a fair coin for every sample that one alone has right.

    Args:
        only_a: samples that the first alone has right.
        only_b: samples that the second alone has right.
    """
    n, few = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    # Logarithms, because 2**n leaves the range of floats at about a thousand samples.
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(few + 1)]
    top = max(logs)
    return min(1.0, 2 * math.exp(top) * sum(math.exp(x - top) for x in logs))
