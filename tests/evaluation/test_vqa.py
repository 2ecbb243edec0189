from __future__ import annotations

import pytest

from tove_core.errors import DataError
from tove_core.evaluation.metrics.score import by_id, group_scores
from tove_core.evaluation.metrics.vqa import exact_match, normalize_answer, vqa_accuracy


def by_definition(candidate: str, answers: list[str]) -> float:
    """Leave each annotator out by position and average min(1, agreeing others / 3)."""
    kept = [answers[:n] + answers[n + 1 :] for n in range(len(answers))]
    return sum(min(1.0, others.count(candidate) / 3) for others in kept) / len(answers)


@pytest.mark.parametrize("agree", range(11))
def test_accuracy_leaves_each_annotator_out_in_turn(agree):
    answers = ["red"] * agree + ["blue"] * (10 - agree)
    assert vqa_accuracy({"q": "red"}, {"q": answers}).value == pytest.approx(by_definition("red", answers))


def test_one_two_and_three_of_ten_make_three_six_and_nine_tenths():
    references = {str(n): ["red"] * n + ["blue"] * (10 - n) for n in (1, 2, 3, 4)}
    score = vqa_accuracy(dict.fromkeys(references, "red"), references)
    assert list(score.samples.values()) == pytest.approx([0.3, 0.6, 0.9, 1.0])
    assert score.value == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("The Two dogs", "2 dogs"),
        ("2.", "2"),
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("don't", "don't"),
        ("ice-cream", "ice cream"),
        ("red, blue", "red blue"),
        ("1,000", "1000"),
        ("1,000/day", "1000day"),
        ("black/white", "black white"),
        ("10:30", "10:30"),
        ("twas", "'twas"),
        ("an", ""),
        ("well", "well"),
    ],
)
def test_answers_are_normalised_as_the_official_script_does(answer, wanted):
    assert normalize_answer(answer) == wanted
    assert normalize_answer(wanted) == wanted


def test_both_sides_are_normalised_where_annotators_disagree_and_neither_where_all_agree():
    assert vqa_accuracy({"q": "Two."}, {"q": ["2"] * 5 + ["the two"] * 4 + ["three"]}).value == 1
    assert vqa_accuracy({"q": "Two"}, {"q": ["2"] * 10}).value == 0
    assert vqa_accuracy({"q": " The\n2 "}, {"q": ["The 2"] * 10}).value == 1


def test_a_single_answer_has_no_others_to_agree_with():
    with pytest.raises(DataError, match=r"1 of 2 questions have a single answer .*'b'.* use exact match"):
        vqa_accuracy({"a": "x", "b": "x"}, {"a": ["x", "x"], "b": ["x"]})


def test_exact_match_ignores_case_and_space_around_only():
    score = exact_match({"a": " Yes ", "b": "yes", "c": "the cat"}, {"a": ["yes"], "b": ["no", "yes"], "c": ["cat"]})
    assert score.samples == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert score.value == pytest.approx(2 / 3)
    assert len(score) == 3


def test_ids_that_come_twice_or_not_at_all_are_refused():
    with pytest.raises(DataError, match=r"1 ids come more than once \(first: 'a'\)"):
        by_id([("a", "x"), ("b", "y"), ("a", "x")])
    assert by_id([("a", "x"), ("b", "y")]) == {"a": "x", "b": "y"}
    with pytest.raises(DataError, match="1 have no candidate"):
        exact_match({}, {"a": ["x"]})


def test_group_scores_split_the_score_by_kind():
    score = exact_match({"a": "x", "b": "x", "c": "x"}, {"a": ["x"], "b": ["y"], "c": ["x"]})
    found = group_scores(score, {"a": "shape", "b": "shape", "c": "colour"})
    assert {kind: part.value for kind, part in found.items()} == {"colour": 1.0, "shape": 0.5}
    assert list(found["shape"].samples) == ["a", "b"] and len(found["colour"]) == 1
    with pytest.raises(DataError, match="1 of 3 samples have no group"):
        group_scores(score, {"a": "shape", "b": "shape"})
