from __future__ import annotations

import pytest

from tove_core.errors import DataError
from tove_core.evaluation.metrics.binary import consistency, pope, pope_verdict, true_or_false, verdict
from tove_core.evaluation.metrics.score import group_scores


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("yes", True),
        ("No, there is not.", False),
        ("There is not a dog. Yes", False),
        ("Yes. No dog", True),
        ("Yes.No", True),
        ("no,", False),
        ("", True),
        ("NO", True),
        ("nothing", True),
        ("a dog, no", False),
    ],
)
def test_pope_answers_are_read_as_by_its_script(answer, yes):
    assert pope_verdict(answer) is yes


@pytest.mark.parametrize(
    ("answer", "value"),
    [("True", True), ("It is false.", False), ("yes, not no", True), ("NO", False), ("0", False), ("", None),
     ("nottrue", None), ("maybe", None)],
)  # fmt: skip
def test_a_verdict_is_the_first_truth_value_in_an_answer(answer, value):
    assert verdict(answer) is value


def by_counting(said, right):
    """POPE's figures from a table of two by two."""
    tp = sum(a and b for a, b in zip(said, right, strict=True))
    fp = sum(a and not b for a, b in zip(said, right, strict=True))
    fn = sum(b and not a for a, b in zip(said, right, strict=True))
    tn = len(said) - tp - fp - fn
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    f1 = 2 * precision * recall / (precision + recall)
    return [(tp + tn) / len(said), precision, recall, f1, (tp + fp) / len(said)]


def test_pope_figures_are_those_of_the_table_of_two_by_two():
    said = [True] * 5 + [False] * 4 + [True] * 2
    right = [True] * 3 + [False] * 2 + [True] + [False] * 3 + [True, False]
    candidates = {str(n): "Yes, there is." if value else "No." for n, value in enumerate(said)}
    references = {str(n): ["yes" if value else "no"] for n, value in enumerate(right)}
    scores = pope(candidates, references)
    assert [score.name for score in scores] == ["accuracy", "precision", "recall", "F1", "yes-ratio"]
    assert [score.value for score in scores] == pytest.approx(by_counting(said, right))
    splits = {name: "random" if int(name) < 6 else "adversarial" for name in references}
    for score, of_part, of_rest in zip(
        scores, by_counting(said[:6], right[:6]), by_counting(said[6:], right[6:]), strict=True
    ):
        found = {kind: part.value for kind, part in group_scores(score, splits).items()}
        assert found == pytest.approx({"random": of_part, "adversarial": of_rest})


def test_ratios_without_a_single_yes_are_nothing():
    values = {s.name: s.value for s in pope({"a": "no", "b": "no"}, {"a": ["no"], "b": ["no"]})}
    assert values == {"accuracy": 1, "precision": 0, "recall": 0, "F1": 0, "yes-ratio": 0}


def test_an_answer_that_says_neither_is_wrong_and_counts():
    score = true_or_false({"a": "perhaps", "b": "True", "c": ""}, {"a": ["false"], "b": ["yes"], "c": ["1"]})
    assert score.samples == {"a": 0.0, "b": 1.0, "c": 0.0} and score.value == pytest.approx(1 / 3)


def test_consistency_wants_every_permutation_right():
    right = true_or_false(
        {"a-0": "true", "a-1": "true", "b-0": "true", "b-1": "false", "c-0": "false"},
        {"a-0": ["true"], "a-1": ["true"], "b-0": ["true"], "b-1": ["true"], "c-0": ["false"]},
    )
    score = consistency(right, {name: name[0] for name in right.samples})
    assert score.samples == {"a": 1.0, "b": 0.0, "c": 1.0} and score.value == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="4 of 5 samples have no group"):
        consistency(right, {"a-0": "a"})


@pytest.mark.parametrize("metric", [pope, true_or_false])
def test_references_of_another_task_are_refused(metric):
    with pytest.raises(DataError, match=r"2 of 3 samples have a reference that is not true or false.*'b', 'c'"):
        metric(dict.fromkeys("abc", "yes"), {"a": ["yes"], "b": ["red"], "c": ["yes", "no"]})
