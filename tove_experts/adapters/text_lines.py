"""Boxes around the connected parts of a text detector's probability map, on whatever device it lies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Lines(NamedTuple):
    """Up to R lines of each image, best first: `boxes` [B, R, 4] in pixels, `scores` [B, R], `valid` [B, R]."""

    boxes: Tensor
    scores: Tensor
    valid: Tensor


def find_lines(
    probabilities: Tensor,
    *,
    limit: int,
    threshold: float = 0.3,
    box_threshold: float = 0.6,
    unclip: float = 1.5,
    smallest: int = 3,
) -> Lines:
    """Return upright boxes around the connected parts (8 neighbours) of maps [B, H, W].

    As differentiable binarization reads its map (arXiv:1911.08947), with upright boxes: the network marks the core of
    a line, so a box is grown on every side by area · unclip / perimeter. A rotated line gets the upright box around it.

    Args:
        probabilities: of text, 0..1.
        limit: R, most lines per image.
        threshold: pixels above it belong to text.
        box_threshold: the mean probability of a part's pixels, its score, must reach it.
        unclip: how far boxes are grown.
        smallest: parts with a shorter side, in pixels, are noise.
    """
    height, width = probabilities.shape[1:]
    labels = connected(probabilities > threshold)
    found = [_parts(one, label) for one, label in zip(probabilities.flatten(1), labels, strict=True)]
    batch = len(found)
    boxes = probabilities.new_zeros(batch, limit, 4)
    scores = probabilities.new_zeros(batch, limit)
    most = 0
    for i, (pixels, means) in enumerate(found):
        box = _boxes(pixels, width)
        sides = box[:, 2:] - box[:, :2]
        kept = ((sides.amin(1) >= smallest) & (means >= box_threshold)).nonzero()[:, 0]
        order = kept[means[kept].sort(descending=True, stable=True).indices][:limit]
        box, sides = box[order], sides[order]
        grown = sides.prod(1) * unclip / (2 * sides.sum(1)).clamp(min=1)
        box = box + grown[:, None] * box.new_tensor([-1.0, -1.0, 1.0, 1.0])
        boxes[i, : len(order)] = box.clamp(min=0).minimum(box.new_tensor([width, height] * 2))
        scores[i, : len(order)] = means[order]
        most = max(most, len(order))
    scores = scores[:, :most].clamp(0, 1)
    return Lines(boxes[:, :most], scores, scores > 0)


def connected(mask: Tensor) -> Tensor:
    """Return [B, H·W]: for each pixel of a mask [B, H, W] the first pixel of its connected part, H·W elsewhere.

    Every pixel takes the smallest label around it and pulls its label's own label down with it; labels of labels are
    followed at once, so the number of rounds grows with the logarithm of a part's length and not with the length.
    """
    batch, height, width = mask.shape
    none = height * width
    inside = mask.flatten(1)
    parent = torch.arange(none + 1, device=mask.device).expand(batch, -1).clone()
    parent[:, :none].masked_fill_(~inside, none)
    exact = torch.float32 if none < 2**24 else torch.float64  # whole numbers; MPS has no float64
    while True:
        around = -F.max_pool2d(-parent[:, None, :none].unflatten(2, (height, width)).to(exact), 3, 1, 1)
        least = around.long().flatten(1).masked_fill(~inside, none)
        pulled = parent.scatter_reduce(1, parent[:, :none], least, "amin")
        followed = pulled.gather(1, pulled)
        followed = followed.gather(1, followed)
        if torch.equal(followed, parent):
            return parent[:, :none]
        parent = followed


class _Pixels(NamedTuple):
    """Pixels of text, the number of the part each belongs to, and how many parts there are."""

    index: Tensor
    part: Tensor
    count: int


def _parts(probabilities: Tensor, labels: Tensor) -> tuple[_Pixels, Tensor]:
    """Return the pixels of an image's parts, and the parts' mean probabilities."""
    index = (labels < len(labels)).nonzero()[:, 0]
    names, part, sizes = labels[index].unique(return_inverse=True, return_counts=True)
    sums = probabilities.new_zeros(len(names)).index_add(0, part, probabilities[index])
    return _Pixels(index, part, len(names)), sums / sizes


def _boxes(pixels: _Pixels, width: int) -> Tensor:
    """Return [parts, 4] in pixels, from the outer edges of the first to those of the last pixels."""
    x, y = (pixels.index % width).float(), (pixels.index // width).float()
    empty = x.new_zeros(pixels.count)
    sides = [(x, "amin"), (y, "amin"), (x + 1, "amax"), (y + 1, "amax")]
    return torch.stack([empty.scatter_reduce(0, pixels.part, v, how, include_self=False) for v, how in sides], 1)
