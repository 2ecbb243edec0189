"""Results over seeds: means, spread, and differences with intervals that cover seeds and images."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tove_core.demo.claims.measure import Result
from tove_core.errors import DataError
from tove_core.evaluation.metrics.student import quantile

_NORMAL = 1.96


@dataclass(frozen=True)
class Change:
    """How much more accurate one variant is than another.

    Attributes:
        mean: difference of accuracy, over seeds and images.
        low, high: 95 % interval, see `of_differences`; of one seed it covers images alone.
        by_seed: the difference of each seed.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """`yes` where the whole interval is above 0, `no, the reverse` where it is below, else `not decided`.

        One seed can say so of itself alone: `yes, in this run`.
        """
        if self.low <= 0 <= self.high:
            return "not decided"
        found = "yes" if self.low > 0 else "no, the reverse"
        return found if len(self.by_seed) > 1 else f"{found}, in this run"

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
    """Return the change that differences [seeds, images] amount to.

    The interval's half width is the root of the sum of two squares: Student's t times the standard error over seeds,
    whose number is small, and 1.96 times that over images, which all seeds share. What differs by seed and image at
    once is in both, so the interval errs on the wide side. Drawing two or three seeds again would make it far too
    narrow.
    """
    images = values.shape[1]
    by_seed = values.mean(axis=1)
    over_images = _NORMAL * _standard_error(values.mean(axis=0)) if images > 1 else 0.0
    half = float(np.hypot(over_images, _over_seeds(by_seed)))
    mean = float(values.mean())
    return Change(mean, mean - half, mean + half, tuple(by_seed.tolist()))


def of_seeds(values: Sequence[float]) -> Change:
    """Return the change that one difference per seed amounts to; the interval covers seeds alone."""
    return of_differences(np.asarray(values, dtype=np.float64)[:, None])


def _over_seeds(values: np.ndarray) -> float:
    if len(values) < 2:
        return 0.0
    return quantile(0.95, len(values) - 1) * _standard_error(values)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5


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
