"""Samples of unequal length as one padded batch in which padding never stands between image and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from tove_core.language.prompt import EncodedText

IGNORE = -100
"""Label of a position that has no loss."""


@dataclass(frozen=True)
class TextBatch:
    """A padded batch of B sequences of length L, A answer tokens in all, predicted from U of the L positions."""

    ids: Tensor
    """[B, L] token ids; the padding id at padding and at the image's positions."""
    attention_mask: Tensor
    """[B, L] 1 where there is text or image."""
    image_mask: Tensor
    """[B, L] True at the image's positions."""
    places: Tensor
    """[P] the image's positions, sample after sample, in the batch flattened to [B * L]."""
    labels: Tensor
    """[B, L] the ids of answer tokens, IGNORE elsewhere; not shifted."""
    columns: Tensor
    """[U] ascending positions from which some sample predicts an answer token: one before that token."""
    sample: Tensor
    """[A] which sample each answer token belongs to."""
    column: Tensor
    """[A] index into `columns` of each answer token."""
    answer: Tensor
    """[A] the answer tokens themselves."""

    def to(self, device: torch.device) -> TextBatch:
        """Return the batch on a device, but for `labels`, which say in another form what the last three do."""
        moved = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "labels"}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in moved.items()})


def assemble(
    texts: Sequence[EncodedText], *, image: int, pad: int, side: Literal["left", "right"] = "right"
) -> TextBatch:
    """Lay out [before, image, after, target] for each sample and pad to the longest.

    A sample with several places for images has an equal share of `image` at each, in order.

    Padding on the right keeps every position where it is without padding; training needs that (GPT-2 and BERT count
    positions from the left). Generation needs the last position to be the last token: padding on the left.

    Args:
        texts: samples; those without a target simply have no answer tokens.
        image: number of positions a sample's images take together, a multiple of its places (0 where the language
            model sees them by cross-attention).
        pad: token id written at padding and at the image's positions; masks hide it.
        side: where padding goes.
    """
    rows = [_laid(text, image // text.places, pad) for text in texts]
    size, length = len(rows), max(map(len, rows))
    ids = torch.full((size, length), pad)
    mask = torch.zeros(size, length, dtype=torch.long)
    where = torch.zeros(size, length, dtype=torch.bool)
    labels = torch.full((size, length), IGNORE)
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        first = length - len(row) if side == "left" else 0
        last = first + len(row)
        ids[i, first:last] = torch.tensor(row, dtype=torch.long)
        mask[i, first:last] = 1
        at = first + len(text.before)
        for gap in (*text.between, ()):
            where[i, at : at + image // text.places] = True
            at += image // text.places + len(gap)
        labels[i, last - len(text.target) : last] = ids[i, last - len(text.target) : last]
    answers = labels[:, 1:] != IGNORE
    columns = answers.any(0).nonzero().squeeze(1)
    sample, column = answers[:, columns].nonzero(as_tuple=True)
    places = where.flatten().nonzero().squeeze(1)
    return TextBatch(ids, mask, where, places, labels, columns, sample, column, labels[:, 1:][answers])


def _laid(text: EncodedText, image: int, pad: int) -> list[int]:
    """Return the ids of one sample, with `image` times `pad` at each place of an image."""
    between = [one for gap in text.between for one in (*gap, *[pad] * image)]
    return [*text.before, *[pad] * image, *between, *text.after, *text.target]
