"""Student's t and Wilson's interval (1927): what an interval has to be wider by where there is little to draw from."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_LIKE_NORMAL = 1000
"""Degrees of freedom from which Student's t is taken for normal; it is within 0.2 % of it."""

_NORMAL = NormalDist()


def inside(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies within ±t, by its finite series.

    Args:
        t: not negative.
        freedom: degrees of freedom, at least 1.
    """
    if freedom >= _LIKE_NORMAL:
        return 1 - 2 * _NORMAL.cdf(-t)
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@lru_cache(maxsize=4096)
def quantile(level: float, freedom: int) -> float:
    """Return the t within whose ± Student's t lies with probability `level`, which is below 1."""
    high = 1.0
    while inside(high, freedom) < level:
        high *= 2
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, freedom) < level else (low, middle)
    return high


def tails(level: float, clusters: int) -> tuple[float, float]:
    """Return which quantiles of resampled figures are an interval of that level, of a number of clusters.

    A set drawn again varies by (n - 1) / n of the variance there is, and knows nothing of its estimate's own error:
    the quantiles lie as much further out as Student's t asks for (Hesterberg, 2015).
    """
    reach = math.sqrt(clusters / (clusters - 1)) * quantile(level, clusters - 1)
    low = _NORMAL.cdf(-reach)
    return low, 1 - low


def corrected(p: float, clusters: int) -> float:
    """Return the two-sided p that one of resampled sets amounts to: that of the level of `tails` which just holds 0."""
    if p >= 1:
        return 1.0
    reach = -_NORMAL.inv_cdf(p / 2) * math.sqrt((clusters - 1) / clusters)
    return 1 - inside(reach, clusters - 1)


def wilson(values: np.ndarray, of_sample: np.ndarray, level: float) -> tuple[float, float]:
    """Return Wilson's interval of the mean of zeros and ones.

    Samples that are drawn together count as many as they are worth: n is divided by the design effect, and Student's t
    stands for the normal. Where all are equal nothing shows how alike those of a cluster are, and each cluster counts
    once.

    Args:
        values: [n], 0 or 1.
        of_sample: [n], the number of each sample's cluster, from 0; at least two clusters.
        level: probability that the interval holds the true mean.
    """
    n, clusters = len(values), int(of_sample.max()) + 1
    mean = float(values.mean())
    z = _NORMAL.inv_cdf((1 + level) / 2) if clusters == n else quantile(level, clusters - 1)
    size = n if clusters == n else _worth(values - mean, of_sample, clusters)
    middle = (mean + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(mean * (1 - mean) / size + z * z / (4 * size * size))
    return max(0.0, middle - half), min(1.0, middle + half)


def _worth(residuals: np.ndarray, of_sample: np.ndarray, clusters: int) -> float:
    """Return how many independent samples the clusters are worth, at most as many as there are."""
    n = len(residuals)
    spread = float((np.bincount(of_sample, residuals) ** 2).sum()) * clusters / (clusters - 1)
    alone = float((residuals**2).sum())
    if not alone:
        return float(clusters)
    return min(float(n), n * alone / spread) if spread else float(n)
