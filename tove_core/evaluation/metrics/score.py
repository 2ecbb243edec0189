"""What every metric takes and gives: texts by sample id in, one score with its per-sample parts out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from tove_core.errors import DataError

T = TypeVar("T")

Candidates = Mapping[str, str]
"""What the model said, by sample id."""
References = Mapping[str, Sequence[str]]
"""What is right, by sample id: one text or more each."""
Tokenizer = Callable[[str], list[str]]
Weighted = Callable[[np.ndarray], np.ndarray]
"""From weights [R, n], how often each sample counts in each of R sets, to the score [R] of each set."""

_WEIGHTS_AT_ONCE = 4_000_000
"""Weights held in memory at a time where a part of a set is scored by the formula of the whole, 32 MB."""


@dataclass(frozen=True)
class Score:
    """One metric over a set of samples.

    Attributes:
        name: metric with its variant, as it should be printed.
        value: the score of the set. For BLEU it is not the mean of the samples.
        samples: the score of each sample by id, in the order of the references.
        weighted: how a set's score comes from how often each sample counts; None: it is their mean.
        judges: whether a sample's score says how right its answer is; POPE's yes-ratio only says what it was.
        most: the highest score that a sample can have.
    """

    name: str
    value: float
    samples: Mapping[str, float] = field(repr=False)
    weighted: Weighted | None = field(default=None, repr=False, compare=False)
    judges: bool = True
    most: float = 1.0

    @property
    def is_share(self) -> bool:
        """Whether it is the share of samples of which something is true: their mean, each 0 or 1."""
        return self.weighted is None and self.most == 1 and all(one in (0.0, 1.0) for one in self.samples.values())

    def of_weights(self, weights: np.ndarray) -> np.ndarray:
        """Return the score [R] of R sets in which the samples count as often as `weights` [R, n] says.

        What is learned from the whole set of references (CIDEr's word frequencies) stays as it is.
        """
        if self.weighted is not None:
            return self.weighted(weights)
        values = np.fromiter(self.samples.values(), np.float64, len(self.samples))
        return weights @ values / weights.sum(axis=1)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)


def mean_score(name: str, samples: Mapping[str, float], *, most: float = 1.0) -> Score:
    """Return the score that is the mean of its samples, each of which can have `most`."""
    return Score(name, sum(samples.values()) / len(samples), samples, most=most)


def by_id(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return a mapping from pairs of id and text.

    Raises:
        DataError: an id comes twice.
    """
    found: dict[str, T] = {}
    twice: dict[str, None] = {}
    for name, item in pairs:
        if name in found:
            twice[name] = None
        found[name] = item
    if twice:
        raise DataError(f"{len(twice)} ids come more than once ({first_ids(list(twice))}); score each sample once")
    return found


def check_pairs(candidates: Candidates, references: References) -> None:
    """Refuse candidates and references that are not about the same samples.

    Raises:
        DataError: there are none, ids are missing or extra, or a sample has no reference or is no text.
    """
    missing = [name for name in references if name not in candidates]
    extra = [name for name in candidates if name not in references]
    if missing or extra:
        parts = [f"{len(ids)} {what} ({first_ids(ids)})" for ids, what in _faults(missing, extra) if ids]
        raise DataError(
            f"of {len(references)} samples to score {' and '.join(parts)}; "
            "score exactly the samples that have references"
        )
    if not references:
        raise DataError("no samples were given to score, but a score needs at least one; check the data set")
    bare = [name for name, texts in references.items() if isinstance(texts, str) or not texts]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(references)} samples have no list of references ({first_ids(bare)}); "
            "give at least one text each"
        )
    odd = [n for n, text in candidates.items() if not all(isinstance(t, str) for t in (text, *references[n]))]
    if odd:
        raise DataError(f"{len(odd)} of {len(references)} samples hold what is not text ({first_ids(odd)}); convert it")


def group_scores(score: Score, groups: Mapping[str, str]) -> dict[str, Score]:
    """Return the score of each group of samples (kind of question) by the same formula, groups sorted by name.

    Raises:
        DataError: a sample has no group.
    """
    missing = [name for name in score.samples if name not in groups]
    if missing:
        raise DataError(f"{len(missing)} of {len(score)} samples have no group ({first_ids(missing)}); give each one")
    places: dict[str, list[int]] = {}
    for place, name in enumerate(score.samples):
        places.setdefault(groups[name], []).append(place)
    names = list(score.samples)
    return {group: _part(score, [names[n] for n in where], where) for group, where in sorted(places.items())}


def _part(score: Score, names: Sequence[str], where: Sequence[int]) -> Score:
    samples = {name: score.samples[name] for name in names}
    whole, total = score.weighted, len(score)
    if whole is None:
        return replace(score, value=sum(samples.values()) / len(samples), samples=samples)

    def weighted(weights: np.ndarray) -> np.ndarray:
        rows = max(1, _WEIGHTS_AT_ONCE // total)
        found = []
        for first in range(0, len(weights), rows):
            some = weights[first : first + rows]
            spread = np.zeros((len(some), total))
            spread[:, where] = some
            found.append(whole(spread))
        return np.concatenate(found)

    return replace(score, value=float(weighted(np.ones((1, len(names))))[0]), samples=samples, weighted=weighted)


def _faults(missing: list[str], extra: list[str]) -> tuple[tuple[list[str], str], ...]:
    return (missing, "have no candidate"), (extra, "candidates have no references")


def first_ids(ids: Sequence[str]) -> str:
    """Return `first: 'a', 'b', 'c'`, which error messages name offenders by."""
    return "first: " + ", ".join(repr(name) for name in ids[:3])
