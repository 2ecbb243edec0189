from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from tove_core.errors import DataError
from tove_core.evaluation.metrics.bleu import bleu
from tove_core.evaluation.metrics.bootstrap import bootstrap, draws, intervals
from tove_core.evaluation.metrics.paired import compare, mcnemar
from tove_core.evaluation.metrics.score import mean_score
from tove_core.evaluation.metrics.student import inside, quantile


def scored(values, name="accuracy"):
    return mean_score(name, {str(n): float(value) for n, value in enumerate(values)})


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 15), (15, 5), (7, 7), (31, 60)])
def test_mcnemar_is_the_two_sided_binomial_test(b, c):
    n = b + c
    tail = sum(Fraction(comb(n, k), 2**n) for k in range(min(b, c) + 1))
    assert mcnemar(b, c) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)


def test_mcnemar_does_not_leave_the_range_of_floats():
    assert 0 < mcnemar(2400, 2600) < 0.01


def test_a_comparison_counts_what_one_run_alone_has_right():
    a, b = scored([1, 1, 0, 0, 0, 1, 0]), scored([1, 0, 1, 1, 1, 1, 0])
    found = compare(a, b)
    assert (found.only_a, found.only_b) == (1, 3) and found.mcnemar == pytest.approx(10 / 16)
    assert found.difference == pytest.approx(-2 / 7) and found.low <= found.difference <= found.high


def test_runs_that_are_equal_do_not_differ_and_a_clear_difference_shows():
    rng = np.random.default_rng(2)
    a = scored(rng.random(301) < 0.5)
    same = compare(a, a)
    assert same.p == 1 and same.mcnemar == 1 and same.low == same.high == 0
    better = scored([1.0 if n % 3 == 0 else value for n, value in enumerate(a.samples.values())])
    found = compare(better, a)
    assert found.p < 0.01 and found.mcnemar is not None and found.mcnemar < 0.01 and found.low > 0


def test_the_paired_p_is_right_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    below = 0
    for seed in range(150):
        base = rng.normal(size=60)
        a, b = (scored(base + rng.normal(size=60), "CIDEr-D") for _ in range(2))
        found = compare(a, b, resamples=300, seed=seed)
        below += found.p < 0.1
        assert found.mcnemar is None
    assert 0.03 < below / 150 < 0.2


def test_intervals_of_means_are_those_of_the_plain_bootstrap():
    values = np.random.default_rng(4).random(211)
    (found,) = intervals([scored(values)])
    wanted = bootstrap(values.tolist(), resamples=4000, seed=9)
    assert found is not None and found.mean == pytest.approx(wanted.mean)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.005)


def test_questions_about_one_image_are_drawn_together_and_widen_the_interval():
    values = np.repeat(np.random.default_rng(5).random(40) < 0.5, 10)
    images = {str(n): f"image {n // 10}" for n in range(400)}
    apart, together = intervals([scored(values)])[0], intervals([scored(values)], images)[0]
    assert apart is not None and together is not None
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(10**0.5, rel=0.2)
    for weights in draws(list(images), images, resamples=3, seed=0):
        assert weights.shape == (3, 400) and (weights.sum(axis=1) == 400).all()
        assert (weights.reshape(3, 40, 10).std(axis=2) == 0).all()
    assert intervals([scored(values)], dict.fromkeys(images, "one")) == [None]


def test_what_is_nearly_always_right_still_has_an_interval_that_holds_the_truth():
    rng = np.random.default_rng(6)
    found = [intervals([scored(rng.random(20) < 0.95)], resamples=50)[0] for _ in range(300)]
    assert all(one is not None and one.low < one.high <= 1 for one in found)
    assert 0.9 < sum(one.low <= 0.95 <= one.high for one in found if one) / 300 <= 1
    (right,), (wrong,) = intervals([scored([1] * 20)]), intervals([scored([0] * 20)])
    assert right is not None and wrong is not None
    z = 1.959964  # Wilson: where none is wrong, 1 / (1 + z² / n)
    assert (right.low, right.high) == (pytest.approx(1 / (1 + z * z / 20)), 1)
    assert (wrong.low, wrong.high) == (0, pytest.approx(1 - right.low))


def test_all_right_about_few_images_says_less_than_about_many():
    images = {str(n): str(n // 5) for n in range(20)}
    together, apart = intervals([scored([1] * 20)], images)[0], intervals([scored([1] * 20)])[0]
    assert together is not None and apart is not None and together.low < 0.4 < 0.8 < apart.low
    nothing = mean_score("CIDEr-D", dict.fromkeys(images, 0.0), most=10.0)
    (found,) = intervals([nothing], images)
    assert found is not None and found.low == found.high == 0, "no share, whose range is another"


def test_an_interval_over_few_images_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    images = {str(n): str(n // 3) for n in range(24)}
    covered = shares = differ = 0
    for seed in range(200):
        values = np.repeat(rng.normal(size=8), 3) + rng.normal(size=24)
        (found,) = intervals([scored(values, "loss")], images, resamples=400, seed=seed)
        covered += found.low <= 0 <= found.high  # type: ignore[union-attr]
        likely = np.repeat(rng.beta(1.4, 0.95, size=8), 3)  # 0.6 on average
        a, b = (scored(rng.random(24) < likely) for _ in range(2))
        (found,) = intervals([a], images)
        shares += found.low <= 1.4 / 2.35 <= found.high  # type: ignore[union-attr]
        differ += compare(a, b, images, resamples=400, seed=seed).p < 0.05
    assert 0.915 < covered / 200 < 0.985 and shares / 200 > 0.915 and differ / 200 < 0.085


@pytest.mark.parametrize(
    ("freedom", "wanted"), [(1, 12.706), (2, 4.303), (3, 3.182), (8, 2.306), (29, 2.045), (10_000, 1.960)]
)
def test_students_t_is_that_of_the_tables(freedom, wanted):
    assert quantile(0.95, freedom) == pytest.approx(wanted, abs=6e-4)
    assert inside(wanted, freedom) == pytest.approx(0.95, abs=1e-4)


def test_a_set_in_which_texts_count_twice_has_the_bleu_of_that_corpus():
    said = {"a": "a red bus on the road", "b": "a dog", "c": "two cats sleep on a sofa today"}
    right = {"a": ["the red bus on the road"], "b": ["a brown dog runs"], "c": ["two cats on a sofa", "cats"]}
    twice = {**{f"{n}1": t for n, t in said.items()}, "c2": said["c"]}
    corpus = bleu(twice, {name: right[name[0]] for name in twice})
    for score, wanted in zip(bleu(said, right), corpus, strict=True):
        assert score.of_weights(np.array([[1.0, 1, 1], [1, 1, 2]])) == pytest.approx([score.value, wanted.value])


@pytest.mark.parametrize(
    ("b", "words"),
    [
        (scored([1, 0], "BLEU-4"), "accuracy and BLEU-4 cannot be compared"),
        (scored([1, 0, 1]), r"1 samples were scored in one run alone \(first: '2'\)"),
        (mean_score("accuracy", {"1": 1.0, "0": 1.0}), "another order"),
    ],
)
def test_scores_that_do_not_pair_are_refused(b, words):
    with pytest.raises(DataError, match=words):
        compare(scored([1, 1]), b)
    with pytest.raises(DataError, match="at least 2"):
        compare(scored([1]), scored([0]))
