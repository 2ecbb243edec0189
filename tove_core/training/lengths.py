"""Which samples are longer than the language model's longest sequence, and can neither be learnt nor scored."""

from __future__ import annotations

import math

from tove_core.data.broken import LeftOut
from tove_core.language.base import Decoder
from tove_core.language.prompt import EncodedText
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.refusals import require_targets

CURE = "shorten their texts, take them out, or use fewer images or image tokens"
_AT_ONCE = 4096
"""Samples whose texts are measured at a time."""


def too_long(decoder: Decoder, examples: Examples, index: int, text: EncodedText, grid: int) -> str | None:
    """Return why a sample cannot be used with this text, or None.

    Args:
        grid: vision tokens of an image.
    """
    limit = decoder.limit
    if limit is None:
        return None
    size = decoder.length(text, grid * len(examples.rows[index]))
    if size <= limit:
        return None
    name, architecture = examples.samples[index].id, decoder.identity.architecture
    return f"sample {name!r} takes {size} positions, more than the {limit} of {architecture}"


def fitting(model: ToveModel, decoder: Decoder, examples: Examples) -> Examples:
    """Return the samples that fit with their first text; the others are counted, with warnings, before any is computed.

    Raises:
        DataError: a sample has no text, or there are more of them than may be left out, as images may that are
            unreadable.
    """
    require_targets(examples.samples)
    if decoder.limit is None:
        return examples
    grid, long = math.prod(model.tower.grid), LeftOut(len(examples), examples.broken.limit, "samples", CURE)
    for start in range(0, len(examples), _AT_ONCE):
        indices = range(start, min(start + _AT_ONCE, len(examples)))
        targets = [examples.samples[i].targets[0] for i in indices]
        for index, text in zip(indices, decoder.encode(examples.prompts(indices), targets), strict=True):
            if (fault := too_long(decoder, examples, index, text, grid)) is not None:
                long.add(index, fault)
    return examples.some([i for i in range(len(examples)) if i not in long.reasons]) if long else examples
