from __future__ import annotations

import json
import os
import shutil

import pytest

from tove_core.errors import DataError
from tove_core.evaluation.metrics import java

SAID = {"park": "a dog runs in the park", "cat": "", "bus": "a ||| bus", "tree": "an unrelated sentence"}
RIGHT = {"park": ["A dog is running.", "the dog plays"], "cat": ["a cat"], "bus": ["a red bus"], "tree": ["a tree"]}


def test_without_the_extra_or_java_scores_are_absent_with_the_reason(monkeypatch):
    monkeypatch.setattr(java, "_package", lambda: None)
    scores, absent = java.java_scores(SAID, RIGHT)
    assert scores == [] and absent.keys() == {"METEOR", "SPICE"}
    assert "pip install tove-core[coco]" in absent["METEOR"]
    monkeypatch.undo()
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", "")
    assert java.java_scores(SAID, RIGHT)[1]["SPICE"] == "there is no java on the path"


def test_a_program_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(java, "_package", lambda: tmp_path)
    monkeypatch.setattr(java.shutil, "which", lambda _: "/bin/java")
    assert java.why_absent([java._METEOR]) == "pycocoevalcap lacks meteor-1.5.jar; install it again"
    spice = (java._SPICE, *java._SPICE_NEEDS)
    assert java.why_absent(spice).startswith("pycocoevalcap lacks spice-1.0.jar, stanford-corenlp-3.6.0.jar, stanf")
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    (tmp_path / java._SPICE).touch()
    (tmp_path / java._SPICE_NEEDS[0]).touch()
    where = tmp_path / "spice" / "lib"
    assert java.why_absent(spice) == (
        f"CoreNLP 3.6.0 is not beside pycocoevalcap (stanford-corenlp-3.6.0-models.jar); put it into {where}"
    )
    (tmp_path / java._SPICE_NEEDS[1]).touch()
    assert java.why_absent(spice) is None


def test_a_program_that_stops_is_absent_with_what_it_said(monkeypatch, tmp_path):
    for path in (java._METEOR, java._SPICE, *java._SPICE_NEEDS):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "java").write_text("#!/bin/sh\necho this java is too new >&2\nexit 3\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setattr(java, "_package", lambda: tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    scores, absent = java.java_scores(SAID, RIGHT)
    assert scores == []
    assert absent["SPICE"].startswith("SPICE stopped with exit code 3 (this java is too new)")
    assert absent["METEOR"].startswith("METEOR stopped (")


def assert_meteor_is_the_original(candidates, references):
    original = pytest.importorskip("pycocoevalcap.meteor.meteor")
    if shutil.which("java") is None:
        pytest.skip("METEOR needs java, which is not installed")
    from tove_core.evaluation.metrics.ptb import tokenize

    right = {name: [" ".join(tokenize(text)) for text in texts] for name, texts in references.items()}
    said = {name: [" ".join(tokenize(candidates[name]))] for name in references}
    value, samples = original.Meteor().compute_score(right, said)
    scores, absent = java.java_scores(candidates, references)
    meteor = scores[0]
    assert meteor.name == "METEOR" and "METEOR" not in absent
    assert meteor.value == pytest.approx(value, abs=1e-6)
    assert list(meteor.samples) == list(references)
    assert list(meteor.samples.values()) == pytest.approx(samples, abs=1e-6)


@pytest.mark.slow
def test_meteor_is_that_of_pycocoevalcap(request, monkeypatch):
    monkeypatch.setattr(java, "_SPICE_NEEDS", (java.Path("never there"),))  # it takes minutes
    candidates, references = dict(SAID), dict(RIGHT)
    # COCO's captions too, where they are; all at once, because the program takes long to start.
    if os.environ.get("TOVE_TEST_DATA") or os.environ.get("TOVE_REQUIRE_TEST_DATA") == "1":
        constructed = request.getfixturevalue("constructed")
        for made in ("identical", "shuffled", "truncated", "empty", "unicode", "one-word"):
            said, right = constructed(made)
            candidates |= {f"{made} {name}": text for name, text in said.items()}
            references |= {f"{made} {name}": texts for name, texts in right.items()}
    assert_meteor_is_the_original(candidates, references)


def test_what_spice_writes_is_read(tmp_path):
    items = [{"image_id": "b", "scores": {"All": {"f": 0.25}}}, {"image_id": "a", "scores": {"All": {"f": None}}}]
    (tmp_path / "out.json").write_text(json.dumps(items))
    score = java.read_spice(tmp_path / "out.json", ["a", "b"])
    assert score.samples == {"a": 0.0, "b": 0.25} and score.value == 0.125
    with pytest.raises(DataError, match=r"left out 1 of 3 samples \(first: 'c'\)"):
        java.read_spice(tmp_path / "out.json", ["a", "b", "c"])
