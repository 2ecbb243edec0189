from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest

from tove_core.data.sample import Sample
from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.compare import compare_predictions
from tove_core.evaluation.evaluate import majority_answers
from tove_core.evaluation.metrics.captions import score_captions
from tove_core.evaluation.references import Reference
from tove_core.evaluation.report import report
from tove_core.evaluation.tasks import TASKS, task, task_for

NAMES = [f"q{n}" for n in range(12)]


def asking(targets, kinds=None, **meta):
    return [
        Reference(
            name, f"i{n // 2}", tuple(texts), "what?", (kinds or [""] * 12)[n], {k: v[n] for k, v in meta.items()}
        )
        for n, (name, texts) in enumerate(zip(NAMES, targets, strict=True))
    ]


YES = asking([["yes"], ["no"]] * 6, ["random", "popular", "adversarial"] * 4)
CAPTIONS = [
    Reference("c0", "i0", ("a dog runs in the park", "a brown dog")),
    Reference("c1", "i1", ("two cats sleep on a sofa",)),
    Reference("c2", "i2", ("a red bus on the road", "the bus")),
]


def test_every_score_has_an_interval_around_it_and_its_number_of_samples():
    found = report(task("pope"), {name: "yes" if n % 3 else "No." for n, name in enumerate(NAMES)}, YES)
    assert [row.name for row in found.rows] == ["accuracy", "precision", "recall", "F1", "yes-ratio"]
    for row in found.rows:
        assert row.low is not None and row.high is not None and row.low <= row.value <= row.high and row.n == 12
    assert (found.samples, found.images) == (12, 6)
    assert {kind: len(rows) for kind, rows in found.kinds.items()} == {"random": 5, "popular": 5, "adversarial": 5}
    assert all(row.n == 4 for rows in found.kinds.values() for row in rows)
    assert found.kinds["random"][4].name == "yes-ratio" and found.kinds["random"][4].value == 0
    plain = json.loads(json.dumps(found.plain()))
    assert plain["scores"]["F1"]["value"] == found.rows[3].value and plain["kinds"]["popular"]["n"] == 4
    assert plain["kinds"]["popular"]["scores"]["F1"].keys() == {"value", "low", "high", "n"}
    text = str(found)
    assert "pope: 12 samples of 6 images" in text and "adversarial" in text


def test_columns_of_kinds_do_not_touch():
    said = {name: "yes" if n % 5 else "No." for n, name in enumerate(NAMES)}
    found = report(task("pope"), said, asking([["yes"], ["no"]] * 6, ["a kind of a long name", "x"] * 6))
    lines = str(found).splitlines()
    (head,) = (n for n, line in enumerate(lines) if line.startswith("kind"))
    cells = [re.split(r" {2,}", line) for line in lines[head + 1 :]]
    told = [[kind, str(row.n), row.name, f"{row.value:.4f}"] for kind, rows in found.kinds.items() for row in rows]
    assert [row[:4] for row in cells] == told and ["x", "6", "F1", "0.0000"] in told
    assert all(re.fullmatch(r"\d\.\d{4} to \d\.\d{4}", row[4]) for row in cells)


@pytest.mark.parametrize(("name", "metric"), [("pope", "F1"), ("vsr", "accuracy")])
def test_the_interval_of_a_kind_is_that_of_a_report_on_the_kind_alone(name, metric):
    draw = random.Random(6)
    of = [
        Reference(str(n), f"i{draw.randrange(60)}", (draw.choice(("yes", "no")),), "?", draw.choice("abc"))
        for n in range(301)
    ]
    said = {one.id: one.targets[0] if draw.random() < 0.7 else "no" for one in of}
    found = report(task(name), said, of)
    for kind, rows in found.kinds.items():
        part = [one for one in of if one.kind == kind]
        (alone,) = (row for row in report(task(name), {one.id: said[one.id] for one in part}, part).rows
                    if row.name == metric)  # fmt: skip
        (row,) = (row for row in rows if row.name == metric)
        assert row.value == pytest.approx(alone.value) and row.n == len(part)
        assert (row.low, row.high) == pytest.approx((alone.low, alone.high))


def test_a_kind_about_one_image_has_no_interval():
    said = {name: "yes" if n % 3 else "no" for n, name in enumerate(NAMES)}
    found = report(task("pope"), said, asking([["yes"], ["no"]] * 6, ["few"] * 2 + ["many"] * 10))
    assert found.kinds["few"][0].low is None and found.kinds["many"][0].low is not None


def test_captions_score_as_the_metrics_say():
    said = {"c0": "a dog in the park", "c1": "cats on a sofa", "c2": "a red bus"}
    found = {row.name: row.value for row in report(task("captions"), said, CAPTIONS).rows}
    scores = score_captions(said, {one.id: one.targets for one in CAPTIONS})
    assert found == {name: score.value for name, score in scores.items()}


def test_one_image_has_no_interval_and_its_cider_warns():
    with pytest.warns(UserWarning, match="CIDEr of one image"):
        found = report(task("captions"), {"c1": "two cats"}, CAPTIONS[1:2])
    assert all(row.low is None for row in found.rows) and "  -" in str(found)
    same = [Reference(one.id, "i0", one.targets) for one in CAPTIONS]
    with pytest.warns(UserWarning, match="CIDEr-D of 3 samples of one image says little"):
        report(task("captions"), dict.fromkeys(("c0", "c1", "c2"), "a dog"), same)


def test_the_majority_answer_of_each_kind_stands_beside_answers():
    references = asking([["red"], ["red"], ["blue"], ["no"], ["no"], ["yes"]] * 2, ["c", "c", "c", "d", "d", "d"] * 2)
    rows = {row.name: row.value for row in report(task("gqa"), dict.fromkeys(NAMES, "blue"), references).rows}
    assert rows == {"exact match": pytest.approx(1 / 6), "majority answer": pytest.approx(4 / 6)}


@pytest.mark.parametrize("name", ["exact-match", "vqa"])
def test_no_one_answer_scores_more_than_the_majority_answer(name):
    draw = np.random.default_rng(4)
    # One is given by most annotators of some questions, another by some of the annotators of most.
    told = [draw.choice(["yes", "no", "two"], 10, p=p).tolist() for p in ([0.9, 0.1, 0], [0.1, 0.5, 0.4])]
    references = asking([["no"] * 10, *[told[n % 3 > 0] for n in range(11)]])
    targets = {one.id: one.targets for one in references}
    scores = [task(name).by_sample(dict.fromkeys(NAMES, one), targets).value for one in ("yes", "no", "two")]
    majority = report(task(name), dict.fromkeys(NAMES, "two"), references).rows[-1]
    assert majority.name == "majority answer" and majority.value == max(scores)
    samples = [Sample(one.id, "x.png", "what?", one.targets) for one in references]
    assert name == "vqa" or majority_answers(samples) == {"": majority.value}


def test_one_answer_of_many_annotators_counts_as_one_right_answer():
    references = asking([["a"] * 10, *[["b", f"c{n}"] for n in range(11)]])
    found = report(task("exact-match"), dict.fromkeys(NAMES, "a"), references)
    assert [row.value for row in found.rows] == pytest.approx([1 / 12, 11 / 12])


def test_vqa_takes_ten_answers_and_counts_as_published():
    references = asking([["red"] * 3 + ["blue"] * 7] * 12)
    found = report(task("vqa"), {name: "red" if n else "Blue." for n, name in enumerate(NAMES)}, references)
    assert found.rows[0].value == pytest.approx((11 * 0.9 + 1) / 12)
    assert found.rows[0].name == "VQA accuracy (leave-one-out average)"  # there is min(n/3, 1) too


def test_vsr_is_told_per_relation():
    relations = ["left of", "under", "behind"] * 4
    references = asking([["True"], ["False"]] * 6, relation=relations)
    found = report(task("vsr"), dict.fromkeys(NAMES, "true"), references)
    assert found.rows[0].value == 0.5 and found.rows[0].name == "accuracy"
    assert {kind: (rows[0].n, rows[0].value) for kind, rows in found.kinds.items()} == dict.fromkeys(
        relations, (4, 0.5)
    )


def test_nlvr_is_consistent_where_all_permutations_are_right():
    references = asking([["true"]] * 12, identifier=[f"7-{n // 6}" for n in range(12)])
    said = {name: "false" if n == 8 else "true" for n, name in enumerate(NAMES)}
    rows = {row.name: row for row in report(task("nlvr"), said, references).rows}
    assert rows["accuracy"].value == pytest.approx(11 / 12) and rows["accuracy"].n == 12
    assert rows["consistency"].value == 0.5 and rows["consistency"].n == 2
    assert rows["majority answer"].value == 1.0
    bare = report(task("nlvr"), said, asking([["true"]] * 12))
    # Pictures of two statements that are drawn whole say far less than those of six images.
    assert rows["accuracy"].low < 0.1 and 0.5 < bare.rows[0].low < 0.6
    assert "identifier" in bare.absent["consistency"] and "consistency: absent" in str(bare)


def test_coco_captions_says_what_is_absent(monkeypatch):
    from tove_core.evaluation.metrics import java

    monkeypatch.setattr(java, "_package", lambda: None)
    found = report(task("coco-captions"), {one.id: "a dog" for one in CAPTIONS}, CAPTIONS)
    assert found.absent.keys() == {"METEOR", "SPICE"} and len(found.rows) == 6
    assert "SPICE: absent, pycocoevalcap is not installed" in str(found)


def test_another_tasks_data_and_unknown_tasks_are_refused():
    with pytest.raises(DataError, match=r"12 of 12 samples have a question .* but task 'captions' scores captions"):
        report(task("captions"), dict.fromkeys(NAMES, "x"), YES)
    with pytest.raises(DataError, match=r"3 of 3 samples have no question .*'c0'"):
        report(task("pope"), {one.id: "x" for one in CAPTIONS}, CAPTIONS)
    with pytest.raises(DataError, match="not true or false"):
        report(task("pope"), dict.fromkeys(NAMES, "x"), asking([["red"]] * 12))
    with pytest.raises(ConfigError, match="did you mean 'captions'"):
        task("caption")
    assert task_for(YES) is TASKS["exact-match"] and task_for(CAPTIONS) is TASKS["captions"]
    with pytest.raises(ConfigError, match="12 of 15 samples ask a question"):
        task_for([*YES, *CAPTIONS])


def test_two_runs_are_compared_on_every_metric():
    a = dict.fromkeys(NAMES, "yes")
    b = {one.id: one.targets[0] for one in YES}
    found = compare_predictions(task("pope"), a, b, YES, list(YES))
    accuracy = found.differences[0]
    assert (accuracy.a, accuracy.b, accuracy.only_a, accuracy.only_b) == (0.5, 1.0, 0, 6)
    assert accuracy.mcnemar == pytest.approx(2 / 2**6)
    # Every image has one of each, so that every drawn set differs by a half; six alike are no more.
    assert accuracy.difference == accuracy.low == accuracy.high == pytest.approx(-0.5) and 1 / 2**6 < accuracy.p < 0.05
    assert found.plain()["differences"]["recall"]["difference"] == 0
    assert "A - B" in str(found), "as in a diagnosis: the first named minus the other"
    # Saying yes is not being right, so who alone says it is no count of right answers.
    ratio, line = found.differences[-1], str(found).splitlines()[-1]
    assert (ratio.name, ratio.only_a, ratio.only_b, ratio.mcnemar) == ("yes-ratio", None, None, None)
    assert line.startswith("yes-ratio") and len(line.split()) == len(str(found).splitlines()[2].split()) - 3
    assert [line.split()[0] for line in str(found).splitlines()[2:]] == [one.name for one in found.differences]


def test_runs_on_different_data_are_not_compared():
    said = dict.fromkeys(NAMES, "yes")
    other = asking([["no"], ["no"]] * 6)
    with pytest.raises(DataError, match=r"made for different data: 6 samples differ \(first: 'q0', 'q2', 'q4'\)"):
        compare_predictions(task("pope"), said, said, YES, other)
    with pytest.raises(DataError, match="2 have no prediction"):
        compare_predictions(task("pope"), said, dict.fromkeys(NAMES[2:], "no"), YES)
