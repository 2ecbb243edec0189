from __future__ import annotations

import json
import random
import warnings

import pytest

from tove_core.config import DataConfig
from tove_core.data.readers import read
from tove_core.errors import DataError
from tove_core.evaluation.metrics.bleu import bleu
from tove_core.evaluation.metrics.captions import score_captions
from tove_core.evaluation.metrics.cider import cider
from tove_core.evaluation.metrics.ptb import tokenize
from tove_core.evaluation.metrics.rouge import longest_common, rouge

REFERENCES = {
    "park": ["A dog runs in the park.", "a brown dog running on green grass", "the dog is playing outside"],
    "bus": ["A red bus on the street.", "a double-decker bus drives down the road"],
    "cat": ["The cat sleeps on the sofa!", "a cat, lying on a couch", "a cat a cat a cat", "cat"],
    "man": ["A man's hat is on the table"],
    "beach": ["Two people walk along the beach at sunset", "people on a beach", "sunset over the sea"],
}
CANDIDATES = {
    "park": "a dog is running in the park",
    "bus": "a red double-decker bus on the road on the road on the road on the road",
    "cat": "cat",
    "man": "",
    "beach": "an unrelated sentence, entirely",
}


def scrambled(references: dict[str, list[str]], seed: int) -> dict[str, str]:
    """Candidates between right and wrong: another image's words mixed into a caption, cut, repeated or empty."""
    draw = random.Random(seed)
    texts = [text for of_image in references.values() for text in of_image]
    candidates = {}
    for name, of_image in references.items():
        words = draw.choice(of_image).split()
        other = draw.choice(texts).split()
        candidates[name] = draw.choice(
            [
                " ".join(words),
                " ".join(words[: len(words) // 2] + other),
                " ".join(words * 3),
                words[0],
                "",
                "!?",
                " ".join(other),
            ]
        )
    return candidates


def original(candidates, references):
    """Score tokens with pycocoevalcap: name to (value, one score per sample)."""
    module = pytest.importorskip("pycocoevalcap")
    assert module
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    right = {name: [" ".join(tokenize(text)) for text in texts] for name, texts in references.items()}
    said = {name: [" ".join(tokenize(candidates[name]))] for name in references}
    values, samples = Bleu(4).compute_score(right, said, verbose=0)
    scores = {f"BLEU-{n + 1}": (values[n], samples[n]) for n in range(4)}
    scores["ROUGE-L"] = Rouge().compute_score(right, said)
    scores["CIDEr-D"] = Cider().compute_score(right, said)
    return scores


def assert_equal_to_original(candidates, references):
    ours, theirs = score_captions(candidates, references), original(candidates, references)
    assert ours.keys() == theirs.keys()
    for name, (value, samples) in theirs.items():
        assert ours[name].value == pytest.approx(value, abs=1e-6), name
        assert list(ours[name].samples) == list(references)
        assert list(ours[name].samples.values()) == pytest.approx(list(samples), abs=1e-6), name


def test_scores_are_those_of_pycocoevalcap():
    assert_equal_to_original(CANDIDATES, REFERENCES)


@pytest.mark.parametrize("seed", range(12))
def test_scores_of_scrambled_captions_are_those_of_pycocoevalcap(seed):
    assert_equal_to_original(scrambled(REFERENCES, seed), REFERENCES)


@pytest.mark.shared_data
@pytest.mark.parametrize("seed", range(3))
def test_scores_on_real_coco_captions_are_those_of_pycocoevalcap(seed, shared_data):
    path = shared_data("coco-mini") / "captions.json"
    references = {s.id: list(s.targets) for s in read(DataConfig(reader="coco-captions", path=path))}
    assert_equal_to_original(scrambled(references, seed), references)


@pytest.mark.shared_data
@pytest.mark.parametrize("made", ["identical", "shuffled", "truncated", "empty", "unicode", "one-word"])
def test_constructed_captions_of_coco_score_as_with_pycocoevalcap(made, constructed):
    assert_equal_to_original(*constructed(made))


def test_scores_do_not_depend_on_the_order_of_the_candidates():
    turned = dict(reversed(CANDIDATES.items()))
    for name, score in score_captions(turned, REFERENCES).items():
        assert score == score_captions(CANDIDATES, REFERENCES)[name]


def test_a_candidate_that_is_a_reference_scores_one_and_an_unrelated_one_nothing():
    scores = score_captions({n: texts[0] for n, texts in REFERENCES.items()}, REFERENCES)
    assert scores["BLEU-4"].value == pytest.approx(1)
    assert scores["ROUGE-L"].value == pytest.approx(1)
    assert scores["CIDEr-D"].value > 1
    nothing = score_captions(dict.fromkeys(REFERENCES, "zebra"), REFERENCES)
    assert max(score.value for score in nothing.values()) < 1e-3


def test_cider_of_one_image_is_zero_and_warns_and_of_two_does_not():
    with pytest.warns(UserWarning, match="CIDEr of one image is always 0"):
        assert cider({"park": "a dog"}, {"park": REFERENCES["park"]}).value == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cider({"park": "a dog", "bus": "a bus"}, {n: REFERENCES[n] for n in ("park", "bus")}).value > 0


def test_another_tokenizer_may_be_used():
    assert rouge({"a": "A Dog"}, {"a": ["a dog"]}, tokenizer=str.split).value == 0
    assert rouge({"a": "A Dog"}, {"a": ["a dog"]}).value == pytest.approx(1)


@pytest.mark.parametrize(
    ("one", "two", "length"), [("abcbdab", "bdcaba", 4), ("", "ab", 0), ("ab", "ba", 1), ("xx", "x", 1)]
)
def test_the_longest_common_subsequence_is_found(one, two, length):
    assert longest_common(one, two) == longest_common(two, one) == length


@pytest.mark.parametrize("metric", [bleu, cider, rouge, score_captions])
@pytest.mark.parametrize(
    ("candidates", "references", "words"),
    [
        ({}, {}, "no samples were given"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"], "c": ["z"]}, r"of 3 samples .* 2 have no candidate \(first: 'b', 'c'\)"),
        ({"a": "x", "d": "y"}, {"a": ["x"]}, r"1 candidates have no references \(first: 'd'\)"),
        ({"a": "x"}, {"a": []}, "1 of 1 samples have no list of references"),
        ({"a": "x"}, {"a": "x"}, "1 of 1 samples have no list of references"),
        ({"a": None}, {"a": ["x"]}, "1 of 1 samples hold what is not text"),
    ],
)
def test_samples_that_do_not_match_are_refused(metric, candidates, references, words):
    with pytest.raises(DataError, match=words):
        metric(candidates, references)


def test_scores_survive_as_json():
    scores = score_captions(CANDIDATES, REFERENCES)
    text = json.dumps({name: score.value for name, score in scores.items()})
    assert json.loads(text)["ROUGE-L"] == scores["ROUGE-L"].value
