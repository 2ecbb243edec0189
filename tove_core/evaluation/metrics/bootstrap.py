"""How far a score over samples may be trusted: bootstrap (Efron, 1979); of what is right or wrong Wilson's interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tove_core.errors import DataError
from tove_core.evaluation.metrics.score import Score
from tove_core.evaluation.metrics.student import tails, wilson

RESAMPLES = 1000
"""Sets drawn for the intervals of reports and for paired tests."""

_DRAWN_AT_ONCE = 4_000_000
"""Sample numbers held in memory at a time, 32 MB."""


@dataclass(frozen=True)
class Interval:
    """A score and the range that holds the true one with probability `level`."""

    mean: float
    low: float
    high: float
    level: float


def bootstrap(values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the confidence interval of a mean.

    To compare two models on the same samples, give the differences of their per-sample scores.

    Args:
        values: per-sample scores, at least two, finite; samples that belong together (several per image) make the
            interval too narrow, so give their means.
        level: probability that the interval holds the true mean, between 0 and 1.
        resamples: how often the samples are drawn again, with replacement.
        seed: any number that is not negative; the same gives the same interval.

    Raises:
        DataError: there are fewer than two values, one is not finite, or an option is out of range.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) < 2:
        raise DataError(
            f"an interval of {scores.size} values was asked for, but it needs at least 2; score more samples"
        )
    if not np.isfinite(scores).all():
        first = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise DataError(f"value {first} of {len(scores)} is {scores[first]}, but an interval needs finite values")
    if not 0 < level < 1 or resamples < 1 or seed < 0:
        raise DataError(
            f"level {level}, resamples {resamples} and seed {seed} were given, but a level between 0 and 1, "
            "at least 1 resample and a seed from 0 are wanted"
        )
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // len(scores))
    means = np.concatenate(
        [
            scores[random.integers(len(scores), size=(min(rows, resamples - done), len(scores)))].mean(axis=1)
            for done in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, tails(level, len(scores)))
    return Interval(float(scores.mean()), float(low), float(high), level)


def intervals(
    scores: Sequence[Score],
    clusters: Mapping[str, str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval | None]:
    """Return the confidence interval of each score.

    What is the mean of zeros and ones has Wilson's, because drawing again cannot show what did not happen: of 20 right
    answers it makes 20 right answers. Every other formula is computed anew on every drawn set; CIDEr's word frequencies
    stay those of the whole set.

    Args:
        scores: of one run.
        clusters: samples that belong together (questions about one image) by id, which are drawn together; a sample
            that is not named is a cluster of its own.
        level: probability that an interval holds the true score.
        resamples: sets that are drawn.
        seed: the same gives the same intervals.

    Returns:
        One per score, in order; None where all samples are one cluster.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for index, score in enumerate(scores):
        alike.setdefault(tuple(score.samples), []).append(index)
    found: list[Interval | None] = [None] * len(scores)
    for names, indices in alike.items():
        of_sample, total = numbered(names, clusters)
        if total < 2:
            continue
        drawn: dict[int, list[np.ndarray]] = {}
        for index in indices:
            score = scores[index]
            if score.is_share:
                values = np.fromiter(score.samples.values(), np.float64, len(names))
                found[index] = Interval(score.value, *wilson(values, of_sample, level), level)
            else:
                drawn[index] = []
        for weights in draws(names, clusters, resamples=resamples, seed=seed) if drawn else ():
            for index, of_sets in drawn.items():
                of_sets.append(scores[index].of_weights(weights))
        for index, of_sets in drawn.items():
            low, high = np.quantile(np.concatenate(of_sets), tails(level, total))
            found[index] = Interval(scores[index].value, float(low), float(high), level)
    return found


def numbered(names: Sequence[str], clusters: Mapping[str, str] | None) -> tuple[np.ndarray, int]:
    """Return the number [n] of each sample's cluster, from 0, and how many clusters there are."""
    number: dict[str, int] = {}
    of_sample = np.array([number.setdefault((clusters or {}).get(name, name), len(number)) for name in names])
    return of_sample, len(number)


def draws(
    names: Sequence[str], clusters: Mapping[str, str] | None, *, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield, in portions [r, n], how often each sample counts in each drawn set; clusters are drawn whole.

    Raises:
        DataError: there are fewer than two clusters.
    """
    of_sample, total = numbered(names, clusters)
    if total < 2:
        raise DataError(f"an interval over {total} images was asked for, but it needs at least 2; score more samples")
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // len(names))
    for done in range(0, resamples, rows):
        count = min(rows, resamples - done)
        picked = random.integers(total, size=(count, total)) + np.arange(count)[:, None] * total
        times = np.bincount(picked.ravel(), minlength=count * total).reshape(count, total)
        yield times[:, of_sample].astype(np.float64)
