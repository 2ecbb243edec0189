"""How far two sets of an expert's outputs are apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tove_core.hub.regions import RegionBatch
from tove_core.testing.bench import Outputs
from tove_core.testing.definition import NotApplicable


@dataclass(frozen=True)
class Difference:
    """The output that differs most, and its relative difference: the norm of the change over the norm."""

    name: str
    largest: float


def flat(outputs: Outputs) -> dict[str, Tensor]:
    """Return every tensor of the outputs in float32; of regions, what does not depend on their order.

    Which of two regions with almost the same score comes first is decided by rounding, so scores are sorted.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in outputs.items():
        if isinstance(value, RegionBatch):
            tensors[f"{name}.scores"] = (value.scores * value.valid).float().sort(-1, descending=True).values
        else:
            tensors[name] = value.float()
    return tensors


def difference(found: Outputs, wanted: Outputs) -> Difference:
    """Return the largest relative difference of `found` from `wanted`; NaN counts as infinitely far."""
    apart = {}
    wanted_tensors = flat(wanted)
    for name, tensor in flat(found).items():
        other = wanted_tensors[name]
        scale = other.norm().clamp(min=1e-6 * other.numel() ** 0.5)
        value = ((tensor - other).norm() / scale).item() if tensor.shape == other.shape else float("inf")
        apart[name] = float("inf") if value != value else value
    name = max(apart, key=lambda key: apart[key])
    return Difference(name, apart[name])


def require_regions(outputs: Outputs) -> None:
    """Refuse to judge outputs that are nothing but regions, none of which is valid.

    Raises:
        NotApplicable: there is nothing that could be compared.
    """
    if all(isinstance(value, RegionBatch) and not value.valid.any() for value in outputs.values()):
        raise NotApplicable("it finds no region while its weights are random; a threshold of 0 in `tiny` changes that")


def row(outputs: Outputs, index: int) -> Outputs:
    """Return the outputs of one image of a batch, the batch dimension kept."""
    return {name: _row(value, index) for name, value in outputs.items()}


def _row(value: Tensor | RegionBatch, index: int) -> Tensor | RegionBatch:
    if isinstance(value, Tensor):
        return value[index : index + 1]
    part = slice(index, index + 1)
    return RegionBatch(boxes=value.boxes[part], scores=value.scores[part], valid=value.valid[part])


def finite(value: Tensor | RegionBatch) -> bool:
    """Tell whether every number of an output is finite."""
    if isinstance(value, RegionBatch):
        parts = (value.boxes, value.scores, value.features, value.masks)
        return all(part is None or bool(torch.isfinite(part).all()) for part in parts)
    return bool(torch.isfinite(value).all())
