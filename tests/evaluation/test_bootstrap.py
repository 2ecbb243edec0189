from __future__ import annotations

import math

import numpy as np
import pytest

from tove_core.errors import DataError
from tove_core.evaluation.metrics import bootstrap as module
from tove_core.evaluation.metrics.bootstrap import bootstrap


def test_the_interval_is_that_of_the_normal_approximation_for_many_samples():
    values = np.random.default_rng(0).normal(3, 2, size=901)
    interval = bootstrap(values.tolist(), resamples=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=half / 8)
    assert interval.high == pytest.approx(values.mean() + half, abs=half / 8)


def test_it_covers_the_true_mean_about_as_often_as_it_says():
    draws = np.random.default_rng(1).random((200, 40)) < 0.3
    intervals = [bootstrap(row.astype(float).tolist(), level=0.8, resamples=400) for row in draws]
    covered = sum(interval.low <= 0.3 <= interval.high for interval in intervals) / len(intervals)
    assert 0.7 < covered < 0.9


def test_a_seed_gives_one_interval_and_a_higher_level_a_wider_one():
    values = [0.0, 1.0, 1.0, 0.3, 0.7, 0.2, 0.9]
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)
    assert bootstrap(values, level=0.5).high < bootstrap(values, level=0.99).high
    same = bootstrap([0.5] * 3)
    assert same.low == same.high == same.mean == 0.5


def test_drawing_in_portions_gives_the_same_interval(monkeypatch):
    values = [float(n % 5) for n in range(31)]
    whole = bootstrap(values, resamples=101)
    monkeypatch.setattr(module, "_DRAWN_AT_ONCE", 100)
    assert bootstrap(values, resamples=101) == whole


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([], {}, "interval of 0 values"),
        ([1.0], {}, "needs at least 2"),
        ([1.0, float("nan")], {}, "value 1 of 2 is nan"),
        ([1.0, 2.0], {"level": 1.0}, "a level between 0 and 1"),
        ([1.0, 2.0], {"resamples": 0}, "at least 1 resample"),
        ([1.0, 2.0], {"seed": -1}, "a seed from 0"),
    ],
)
def test_impossible_requests_are_refused(values, options, words):
    with pytest.raises(DataError, match=words):
        bootstrap(values, **options)
