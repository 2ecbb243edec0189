"""How far the regions of two runs are apart, whatever their order and however many slots hold none.

Which of two regions with almost the same score comes first, and which just passes a threshold, a limit or the
suppression of duplicates, is decided by rounding. So each region is compared with its counterpart, the nearest one of
the other run, and one in twenty may have none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tove_core.hub.regions import RegionBatch

SPARE = 20
"""Of so many regions of an image, one may have no counterpart."""


def regions_apart(found: RegionBatch, wanted: RegionBatch) -> dict[str, float]:
    """Return by part (`boxes`, `scores`, ...) how far the regions of B images are apart, `regions` for their number.

    Numbers are compared in parts of the largest one wanted, a text as the same (0) or another (1). Those of valid
    regions are finite, which the hub sees to.
    """
    apart = {"regions": 0.0}
    for index in range(len(wanted.valid)):
        for part, value in _image_apart(found, wanted, index).items():
            apart[part] = max(apart.get(part, 0.0), value)
    return apart


def scores_apart(found: RegionBatch, wanted: RegionBatch) -> tuple[Tensor, Tensor]:
    """Return the scores of both, best first, [B, R] with zeros where a slot holds none; R is the larger one."""
    width = max(found.scores.shape[1], wanted.scores.shape[1])
    return _sorted_scores(found, width), _sorted_scores(wanted, width)


def _sorted_scores(value: RegionBatch, width: int) -> Tensor:
    scores = (value.scores * value.valid).float().sort(-1, descending=True).values
    return torch.nn.functional.pad(scores, (0, width - scores.shape[1]))


def _image_apart(found: RegionBatch, wanted: RegionBatch, index: int) -> dict[str, float]:
    counts = int(found.valid[index].sum()), int(wanted.valid[index].sum())
    spare = max(counts) // SPARE
    if abs(counts[0] - counts[1]) > spare:
        return {"regions": abs(counts[0] - counts[1]) / max(counts)}
    if 0 in counts:
        return {}
    distances = _distances(found, wanted, index)
    total = torch.stack(list(distances.values())).sum(0)
    apart = dict.fromkeys(distances, 0.0)
    for flip in (False, True):  # the counterpart of each found one, then of each wanted one
        near = (total.mT if flip else total).min(1)
        kept = near.values.argsort()[: len(near.values) - spare]
        for part, distance in distances.items():
            held = (distance.mT if flip else distance)[kept, near.indices[kept]]
            apart[part] = max(apart[part], held.max().item())
    return apart


def _distances(found: RegionBatch, wanted: RegionBatch, index: int) -> dict[str, Tensor]:
    """Return by part how far each found region [F] is from each wanted one [W]: [F, W] each."""
    ours, theirs = _parts(found, index), _parts(wanted, index)
    distances = {part: _distance(ours[part], theirs[part]) for part in ours}
    if found.text is not None and wanted.text is not None:
        words, others = _words(found, index), _words(wanted, index)
        distances["text"] = torch.tensor([[float(word != other) for other in others] for word in words])
    return distances


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return torch.cdist(found, wanted, p=float("inf")) / wanted.abs().max().clamp(min=1e-6)


def _parts(value: RegionBatch, index: int) -> dict[str, Tensor]:
    """Return the numbers of an image's valid regions, [R, n] by part."""
    valid = value.valid[index]
    given = {"boxes": value.boxes, "scores": value.scores, "features": value.features, "masks": value.masks}
    return {part: t[index][valid].float().reshape(int(valid.sum()), -1) for part, t in given.items() if t is not None}


def _words(value: RegionBatch, index: int) -> list[str]:
    return [word for word, valid in zip((value.text or ())[index], value.valid[index].tolist(), strict=True) if valid]
