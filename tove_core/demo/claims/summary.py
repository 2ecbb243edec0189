"""Results over seeds: means, spread, and differences with intervals that cover seeds and images."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tove_core.demo.claims.measure import Result
from tove_core.errors import DataError

RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Change:
    """How much more accurate one variant is than another.

    Attributes:
        mean: difference of accuracy, over seeds and images.
        low, high: 95 % interval; seeds and images are both drawn again, the same for the two.
        by_seed: the difference of each seed.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """`yes` where the whole interval is above 0, `no, the reverse` where it is below, else `not decided`."""
        if self.low > 0:
            return "yes"
        return "no, the reverse" if self.high < 0 else "not decided"

    def __str__(self) -> str:
        """Return it in points."""
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def change(before: Sequence[Result], after: Sequence[Result]) -> Change:
    """Compare two variants on the same images, seed by seed.

    Args:
        before, after: results of the same seeds, in the same order.

    Raises:
        DataError: seeds or images differ.
    """
    return of_differences(differences(before, after))


def differences(before: Sequence[Result], after: Sequence[Result]) -> np.ndarray:
    """Return the differences of accuracy [seeds, images].

    Raises:
        DataError: seeds or images differ.
    """
    shapes = {len(one["clusters"]) for one in (*before, *after)}
    if len(before) != len(after) or not before or len(shapes) > 1:
        raise DataError(
            f"{len(before)} and {len(after)} results over {sorted(shapes)} images cannot be compared; compare the same "
            "seeds on the same images"
        )
    return np.array([one["clusters"] for one in after]) - np.array([one["clusters"] for one in before])


def of_differences(values: np.ndarray) -> Change:
    """Return the change that differences [seeds, images] amount to."""
    seeds, images = values.shape
    random = np.random.default_rng(SEED)
    means = np.empty(RESAMPLES)
    for n in range(RESAMPLES):
        rows, columns = random.integers(seeds, size=seeds), random.integers(images, size=images)
        means[n] = values[rows][:, columns].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Change(float(values.mean()), float(low), float(high), tuple(values.mean(axis=1).tolist()))


def spread(values: Iterable[float | None], form: str = ".3f") -> str:
    """Return mean and standard deviation, the mean alone of one value, and a dash of none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return format(known[0], form)
    return f"{statistics.fmean(known):{form}} ± {statistics.stdev(known):{form.lstrip('+')}}"


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; ties share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    order = np.asarray(values)
    return np.array([(order < value).sum() + ((order == value).sum() - 1) / 2 for value in order], dtype=np.float64)
