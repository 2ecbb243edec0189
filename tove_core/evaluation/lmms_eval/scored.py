"""A score in the form that lmms-eval's model interface promises and in the one that its evaluator lets through."""

from __future__ import annotations

from typing import Self

from lmms_eval.api.instance import GenerationResult  # type: ignore[import-not-found]


class Scored(tuple[float, bool], GenerationResult):
    """The pair of a number and whether greedy search writes the text.

    The evaluator of lmms-eval 0.7.3 turns whatever is neither text nor a `GenerationResult` into text, pairs of
    numbers too, and its `multiple_choice` tasks then fail on them. Of a `GenerationResult` it takes `text` as it is.
    """

    def __new__(cls, value: float, greedy: bool) -> Self:
        """Make the pair."""
        return super().__new__(cls, (value, greedy))

    def __init__(self, value: float, greedy: bool) -> None:
        self.text = (value, greedy)
        self.token_counts = None
