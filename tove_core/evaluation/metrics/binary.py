"""Questions with two answers: POPE's yes or no, and the true or false of VSR and NLVR."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tove_core.errors import DataError
from tove_core.evaluation.metrics.score import (
    Candidates,
    References,
    Score,
    Weighted,
    check_pairs,
    first_ids,
    mean_score,
)

TRUE = frozenset({"true", "yes", "1", "correct", "right"})
FALSE = frozenset({"false", "no", "0", "incorrect", "wrong"})
"""Words that are a truth value; the first of them in an answer is its verdict."""

_WORD = re.compile(r"\w+")
_POPE_NO = frozenset({"No", "no", "not"})


def verdict(text: str) -> bool | None:
    """Return what an answer says by its first word of `TRUE` or `FALSE`; None: it says neither."""
    for word in _WORD.findall(text.lower()):
        if word in TRUE or word in FALSE:
            return word in TRUE
    return None


def pope_verdict(text: str) -> bool:
    """Return whether POPE's script takes an answer for yes (Li et al., EMNLP 2023).

    Only what stands before the first full stop counts; commas are dropped; one of the words No, no and not makes it
    no, and everything else is yes, an empty answer and "NO" too.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return not _POPE_NO.intersection(words)


def true_or_false(candidates: Candidates, references: References) -> Score:
    """Return the share of answers whose verdict is the reference's, 0 to 1; one that says neither is wrong.

    Raises:
        DataError: the ids differ, there are none, or a reference is not true or false (or yes or no).
    """
    check_pairs(candidates, references)
    truths = truth_of(references)
    return mean_score("accuracy", {name: float(verdict(candidates[name]) is truth) for name, truth in truths.items()})


def pope(candidates: Candidates, references: References) -> tuple[Score, ...]:
    """Return POPE's accuracy, precision, recall, F1 and yes-ratio, 0 to 1; "yes" is the positive answer.

    Precision without a yes among the answers, recall without one among the references, and F1 without both are 0.

    Raises:
        DataError: the ids differ, there are none, or a reference is not yes or no.
    """
    check_pairs(candidates, references)
    truths = truth_of(references)
    said = {name: pope_verdict(candidates[name]) for name in references}
    right = {name: float(said[name] is truth) for name, truth in truths.items()}
    yes = np.fromiter(said.values(), np.float64, len(said))
    there = np.fromiter(truths.values(), np.float64, len(truths))
    return (
        mean_score("accuracy", right),
        _counted("precision", right, _share(yes * there, yes)),
        _counted("recall", right, _share(yes * there, there)),
        # 2PR / (P + R) in counts: twice the hits over both totals.
        _counted("F1", right, _share(2 * yes * there, yes + there)),
        replace(mean_score("yes-ratio", {name: float(answer) for name, answer in said.items()}), judges=False),
    )


def consistency(score: Score, groups: Mapping[str, str]) -> Score:
    """Return the share of groups all of whose samples are right: permutations of one NLVR example.

    The samples of the result are the groups.

    Args:
        score: with 1 for right and 0 for wrong per sample.
        groups: of every sample, the group it belongs to.

    Raises:
        DataError: a sample has no group.
    """
    missing = [name for name in score.samples if name not in groups]
    if missing:
        raise DataError(f"{len(missing)} of {len(score)} samples have no group ({first_ids(missing)}); give each one")
    all_right: dict[str, float] = {}
    for name, value in score.samples.items():
        all_right[groups[name]] = min(value, all_right.get(groups[name], 1.0))
    return mean_score("consistency", all_right)


def truth_of(references: References) -> dict[str, bool]:
    """Return the truth value of each sample's references.

    Raises:
        DataError: one has none, or references of one sample contradict each other.
    """
    found = {name: {verdict(text) for text in texts} for name, texts in references.items()}
    odd = [name for name, values in found.items() if len(values) != 1 or None in values]
    if odd:
        raise DataError(
            f"{len(odd)} of {len(references)} samples have a reference that is not true or false, nor yes or no "
            f"({first_ids(odd)}); choose the task that belongs to the data set"
        )
    return {name: True in values for name, values in found.items()}


def _share(part: np.ndarray, whole: np.ndarray) -> Weighted:
    def of_weights(weights: np.ndarray) -> np.ndarray:
        hits, total = weights @ part, weights @ whole
        return np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)

    return of_weights


def _counted(name: str, samples: Mapping[str, float], weighted: Weighted) -> Score:
    value = float(weighted(np.ones((1, len(samples))))[0])
    return Score(name, value, samples, weighted)
