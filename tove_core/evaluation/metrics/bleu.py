"""BLEU-1 to BLEU-4 (Papineni et al., ACL 2002), as the COCO caption evaluation computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tove_core.evaluation.metrics.ngrams import Ngram, count_ngrams
from tove_core.evaluation.metrics.ptb import tokenize
from tove_core.evaluation.metrics.score import Candidates, References, Score, Tokenizer, Weighted, check_pairs

LONGEST = 4
# COCO's smoothing: a text too short for any n-gram scores nearly nothing instead of dividing by zero.
_TINY, _SMALL = 1e-15, 1e-9


@dataclass
class _Tally:
    """Words, the nearest reference's words, and n-grams that are right and given, by length."""

    length: float = 0
    reference: float = 0
    right: list[float] = field(default_factory=lambda: [0] * LONGEST)
    given: list[float] = field(default_factory=lambda: [0] * LONGEST)

    def add(self, other: _Tally) -> None:
        """Add another text's counts."""
        self.length += other.length
        self.reference += other.reference
        self.right = [a + b for a, b in zip(self.right, other.right, strict=True)]
        self.given = [a + b for a, b in zip(self.given, other.given, strict=True)]

    def bleu(self) -> list[float]:
        """Return BLEU-1 to BLEU-4."""
        ratio = (self.length + _TINY) / (self.reference + _SMALL)
        brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        scores, product = [], 1.0
        for n, (right, given) in enumerate(zip(self.right, self.given, strict=True), start=1):
            product *= (right + _TINY) / (given + _SMALL)
            scores.append(product ** (1 / n) * brevity)
        return scores


def bleu(
    candidates: Candidates, references: References, *, tokenizer: Tokenizer = tokenize
) -> tuple[Score, Score, Score, Score]:
    """Return BLEU-1, -2, -3 and -4, 0 to 1, over the corpus; of several references the nearest in length counts.

    Args:
        candidates: one text per sample.
        references: the right texts per sample.
        tokenizer: text to tokens; the default is COCO's.

    Raises:
        DataError: the ids differ or there are none.
    """
    check_pairs(candidates, references)
    corpus = _Tally()
    samples: tuple[dict[str, float], ...] = tuple({} for _ in range(LONGEST))
    tallies = []
    for name, texts in references.items():
        tally = _tally(tokenizer(candidates[name]), [tokenizer(text) for text in texts])
        tallies.append(tally)
        corpus.add(tally)
        for of_length, value in zip(samples, tally.bleu(), strict=True):
            of_length[name] = value
    counts = np.array([[t.length, t.reference, *t.right, *t.given] for t in tallies], dtype=np.float64)
    one, two, three, four = (
        Score(f"BLEU-{n}", value, samples[n - 1], _weighted(counts, n))
        for n, value in enumerate(corpus.bleu(), start=1)
    )
    return one, two, three, four


def _weighted(counts: np.ndarray, n: int) -> Weighted:
    """Return BLEU-n of a corpus in which each text, a row of `counts`, counts as often as its weight says."""

    def of_weights(weights: np.ndarray) -> np.ndarray:
        corpora = (weights @ counts).tolist()
        tallies = [_Tally(row[0], row[1], row[2 : 2 + LONGEST], row[2 + LONGEST :]) for row in corpora]
        return np.array([tally.bleu()[n - 1] for tally in tallies])

    return of_weights


def _tally(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> _Tally:
    """Count one candidate; each n-gram is right at most as often as one reference has it."""
    allowed: Counter[Ngram] = Counter()
    for reference in references:
        allowed |= count_ngrams(reference, LONGEST)
    length = len(candidate)
    tally = _Tally(length, min((len(r) for r in references), key=lambda n: (abs(n - length), n)))
    tally.given = [max(0, length - n) for n in range(LONGEST)]
    for ngram, count in count_ngrams(candidate, LONGEST).items():
        tally.right[len(ngram) - 1] += min(count, allowed[ngram])
    return tally
