"""ROUGE-L (Lin and Och, ACL 2004), as the COCO caption evaluation computes it."""

from __future__ import annotations

from collections.abc import Sequence

from tove_core.evaluation.metrics.ptb import tokenize
from tove_core.evaluation.metrics.score import Candidates, References, Score, Tokenizer, check_pairs, mean_score

BETA = 1.2
"""How much more recall weighs than precision."""


def rouge(candidates: Candidates, references: References, *, tokenizer: Tokenizer = tokenize) -> Score:
    """Return ROUGE-L, 0 to 1: F of the best precision and the best recall over the references (maybe of two of them).

    Args:
        candidates: one text per sample.
        references: the right texts per sample.
        tokenizer: text to tokens; the default is COCO's.

    Raises:
        DataError: the ids differ or there are none.
    """
    check_pairs(candidates, references)
    samples = {
        name: _f_score(tokenizer(candidates[name]), [tokenizer(text) for text in texts])
        for name, texts in references.items()
    }
    return mean_score("ROUGE-L", samples)


def _f_score(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    # COCO splits the empty text into one empty token, so that it matches an empty reference.
    candidate = candidate or [""]
    texts = [reference or [""] for reference in references]
    common = [longest_common(candidate, text) for text in texts]
    precision = max(common) / len(candidate)
    recall = max(n / len(text) for n, text in zip(common, texts, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(one: Sequence[str], two: Sequence[str]) -> int:
    """Return the length of the longest common subsequence (words in order, gaps allowed)."""
    row = [0] * (len(two) + 1)
    for word in one:
        diagonal = 0
        for column, other in enumerate(two, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
