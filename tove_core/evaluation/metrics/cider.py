"""CIDEr-D (Vedantam et al., CVPR 2015), as the COCO caption evaluation computes what it prints as CIDEr."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tove_core.evaluation.metrics.ngrams import Ngram, count_ngrams
from tove_core.evaluation.metrics.ptb import tokenize
from tove_core.evaluation.metrics.score import Candidates, References, Score, Tokenizer, check_pairs, mean_score

LONGEST = 4
SIGMA = 6.0
"""Width, in words, of the penalty on a difference in length."""


@dataclass(frozen=True)
class _Vector:
    """One text: its n-grams of each length weighted by tf-idf, their norms, and its number of bigrams."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider(candidates: Candidates, references: References, *, tokenizer: Tokenizer = tokenize) -> Score:
    """Return CIDEr-D, 0 to 10 (papers print 100 times as much).

    How rare a word is comes from the references that are scored, so that the value depends on the whole set, and is
    0 for a single image: then this warns.

    Args:
        candidates: one text per sample.
        references: the right texts per sample.
        tokenizer: text to tokens; the default is COCO's.

    Raises:
        DataError: the ids differ or there are none.
    """
    check_pairs(candidates, references)
    if len(references) == 1:
        warnings.warn("CIDEr of one image is always 0, because no word is rare; score more images", stacklevel=2)
    counts = {n: [count_ngrams(tokenizer(t), LONGEST) for t in texts] for n, texts in references.items()}
    rarity = _Rarity(counts)
    samples = {}
    for name, texts in counts.items():
        candidate = rarity.vector(count_ngrams(tokenizer(candidates[name]), LONGEST))
        samples[name] = 10 * sum(_similarity(candidate, rarity.vector(text)) for text in texts) / len(texts)
    return mean_score("CIDEr-D", samples, most=10.0)


class _Rarity:
    """In how many images' references each n-gram occurs."""

    def __init__(self, counts: Mapping[str, Sequence[Counter[Ngram]]]) -> None:
        images = Counter(ngram for texts in counts.values() for ngram in set().union(*texts))
        self.log_total = math.log(len(counts))
        self.idf = {ngram: self.log_total - math.log(number) for ngram, number in images.items()}

    def vector(self, counts: Counter[Ngram]) -> _Vector:
        """Return the tf-idf vector of one text; an n-gram that no reference has counts as if one had it."""
        weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(LONGEST))
        for ngram, count in counts.items():
            weights[len(ngram) - 1][ngram] = count * self.idf.get(ngram, self.log_total)
        norms = tuple(math.sqrt(sum(w * w for w in of_length.values())) for of_length in weights)
        # COCO measures a text's length by its bigrams.
        return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Return the clipped cosine, averaged over lengths of n-grams, times the penalty on the length, 0 to 1."""
    total = 0.0
    for mine, theirs, a, b in zip(candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True):
        dot = sum(min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in mine.items() if ngram in theirs)
        total += dot / (a * b) if a and b else dot
    difference = candidate.length - reference.length
    return total / LONGEST * math.exp(-(difference**2) / (2 * SIGMA**2))
