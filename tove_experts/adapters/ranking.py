"""What detectors share: their best boxes as regions with labels as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tove_core import RegionBatch


def best_regions(
    boxes: Tensor, scores: Tensor, names: Sequence[str], *, limit: int, threshold: float, one_label: bool = True
) -> RegionBatch:
    """Return the `limit` best boxes of each image, best first; those above `threshold` are valid.

    Args:
        boxes: [B, Q, 4], centre, width and height in parts of the view.
        scores: [B, Q, L] in 0..1, how sure the detector is that query q holds label l.
        names: L labels; an empty one is never valid.
        limit: most regions per image.
        threshold: scores up to it are not valid.
        one_label: every query under its best label; otherwise under any number of them.
    """
    boxes, scores = corners(boxes.float()).clamp(0, 1), scores.float()
    if one_label:
        scores, labels = scores.max(-1)
        queries = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    else:
        index = torch.arange(scores[0].numel(), device=scores.device).expand(len(scores), -1)
        labels, queries, scores = index % scores.shape[2], index // scores.shape[2], scores.flatten(1)
    # Stable, so that ties do not depend on the device.
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :limit]
    scores, labels, queries = (values.gather(1, order) for values in (scores, labels, queries))
    chosen = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    named = torch.tensor([bool(name) for name in names], device=scores.device)
    valid = (scores > threshold) & named[labels]
    numbers: list[list[int]] = torch.where(valid, labels, -1).tolist()
    text = [[names[number] if number >= 0 else "" for number in row] for row in numbers]
    return RegionBatch(boxes=chosen, scores=scores, valid=valid, text=text)


def corners(boxes: Tensor) -> Tensor:
    """Return [..., 4] left, top, right, bottom from centre, width and height."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], -1)
