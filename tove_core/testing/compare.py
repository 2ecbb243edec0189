"""How far two sets of an expert's outputs are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tove_core.hub.regions import RegionBatch
from tove_core.testing.bench import Outputs
from tove_core.testing.compare_regions import regions_apart, scores_apart
from tove_core.testing.definition import NotApplicable


@dataclass(frozen=True)
class Difference:
    """The output that differs most, and its relative difference: the norm of the change over the norm."""

    name: str
    largest: float


def flat(outputs: Outputs) -> dict[str, Tensor]:
    """Return every tensor of numbers of the outputs in float32, those of regions as `output.boxes` and so on."""
    tensors: dict[str, Tensor] = {}
    for name, value in outputs.items():
        if isinstance(value, RegionBatch):
            tensors |= {f"{name}.{part}": t.float() for part, t in vars(value).items() if isinstance(t, Tensor)}
        else:
            tensors[name] = value.float()
    return tensors


def difference(found: Outputs, wanted: Outputs, *, coarse: bool = False) -> Difference:
    """Return the largest relative difference of `found` from `wanted`; NaN counts as infinitely far.

    Args:
        found: the outputs to judge.
        wanted: those they should be.
        coarse: the two differ by more than rounding in float32, which moves regions past each other and across
            thresholds: of regions only the scores are compared, in their order.
    """
    apart: dict[str, float] = {}
    for name, value in found.items():
        other = wanted[name]
        if isinstance(value, Tensor) and isinstance(other, Tensor):
            apart[name] = _tensors_apart(value, other)
        elif isinstance(value, Tensor) or isinstance(other, Tensor):
            apart[name] = float("inf")
        elif coarse:
            apart[f"{name}.scores"] = _tensors_apart(*scores_apart(value, other))
        else:
            apart |= {f"{name}.{part}": distance for part, distance in regions_apart(value, other).items()}
    name = max(apart, key=lambda key: apart[key])
    return Difference(name, apart[name])


def _tensors_apart(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    scale = wanted.float().norm().clamp(min=1e-6 * wanted.numel() ** 0.5)
    value = ((found.float() - wanted.float()).norm() / scale).item()
    return math.inf if math.isnan(value) else value


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
    return replace(value, **{field: held[part] for field, held in vars(value).items() if held is not None})


def finite(value: Tensor | RegionBatch) -> bool:
    """Tell whether every number of an output is finite."""
    if isinstance(value, RegionBatch):
        parts = (value.boxes, value.scores, value.features, value.masks)
        return all(part is None or bool(torch.isfinite(part).all()) for part in parts)
    return bool(torch.isfinite(value).all())
