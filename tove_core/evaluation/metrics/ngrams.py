"""Counting runs of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Ngram = tuple[str, ...]


def count_ngrams(tokens: Sequence[str], longest: int) -> Counter[Ngram]:
    """Return how often each run of 1 to `longest` tokens occurs."""
    counts: Counter[Ngram] = Counter()
    for length in range(1, longest + 1):
        counts.update(zip(*(tokens[start:] for start in range(length)), strict=False))
    return counts
