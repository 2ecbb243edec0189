"""What a region expert gives for a batch of images: boxes, how sure it is of them, and what lies in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RegionBatch:
    """Up to R regions for each of B images; slots that hold none are not `valid`.

    An expert returns it under the name of its `Regions` output. Coordinates are of the view, not of pixels.
    """

    boxes: Tensor
    """[B, R, 4], left, top, right, bottom in 0..1."""
    scores: Tensor
    """[B, R] in 0..1, how sure the expert is."""
    valid: Tensor
    """[B, R], bool."""
    features: Tensor | None = None
    """[B, R, C] for an output with `channels`."""
    text: Sequence[Sequence[str]] | None = None
    """B lists of R strings for an output with `text`: a label or a word; empty in slots that are not valid."""
    masks: Tensor | None = None
    """[B, R, h, w] in 0..1, the region's shape over the whole view; None: its box."""
