"""Comparisons over seeds: means, spread and intervals, against the formulas worked out by hand."""

from __future__ import annotations

import math

import pytest

from tove_core.errors import DataError
from tove_core.evaluation.compare import Comparison
from tove_core.evaluation.metrics.paired import Difference
from tove_core.evaluation.over_seeds import over_seeds

T_95_OF_2 = 4.302653  # Student's t, 2 degrees of freedom, from a printed table


def comparison(a: float, b: float, half: float, samples: int = 40, name: str = "exact match") -> Comparison:
    difference = Difference(name, a, b, a - b - half, a - b + half, 0.5, 0.5)
    return Comparison("exact-match", samples, [difference])


def test_the_interval_covers_seeds_and_images():
    found = over_seeds({0: comparison(0.8, 0.7, 0.02), 3: comparison(0.7, 0.66, 0.04), 7: comparison(0.75, 0.74, 0.03)})
    (row,) = found.differences
    assert found.seeds == (0, 3, 7) and row.by_seed == pytest.approx((0.1, 0.04, 0.01))
    assert (row.a, row.b, row.difference) == pytest.approx((0.75, 0.7, 0.05))
    assert (row.a_spread, row.b_spread) == pytest.approx((0.05, 0.04))
    error = math.sqrt((0.05**2 + 0.01**2 + 0.04**2) / 2) / math.sqrt(3)
    half = math.hypot(T_95_OF_2 * error, 0.03)
    assert (row.low, row.high) == pytest.approx((0.05 - half, 0.05 + half), rel=1e-6)
    assert "0.7500 ± 0.0500" in str(found) and "+0.1000 +0.0400 +0.0100" in str(found)


def test_seeds_that_agree_leave_the_interval_over_images():
    (row,) = over_seeds({seed: comparison(0.8, 0.7, 0.02) for seed in range(3)}).differences
    assert (row.low, row.high) == pytest.approx((0.08, 0.12))


@pytest.mark.parametrize(
    "others", [[], [comparison(0.8, 0.7, 0.02, samples=39)], [comparison(0.8, 0.7, 0.02, name="CIDEr-D")]]
)
def test_what_cannot_be_brought_together_is_refused(others: list[Comparison]):
    each = [comparison(0.8, 0.7, 0.02), *others]
    with pytest.raises(DataError, match="two or more" if not others else "other tasks, samples or metrics"):
        over_seeds(dict(enumerate(each)))
