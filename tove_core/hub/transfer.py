"""Moves pixels to where experts run and outputs to where CLIP runs, each tensor once per device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from tove_core.hub.regions import RegionBatch

T = TypeVar("T", Tensor, RegionBatch)


def sent(pixels: Mapping[str, Tensor], places: Mapping[str, torch.device]) -> dict[str, Tensor]:
    """Return every key's pixels on its device; keys that share a tensor and a device share the copy."""
    copies: dict[tuple[int, torch.device], Tensor] = {}
    found = {}
    for key, device in places.items():
        tensor = pixels[key]
        copy = copies.get((id(tensor), device))
        if copy is None:
            copy = copies[id(tensor), device] = tensor.to(device)
        found[key] = copy
    return found


def arrived(output: T, device: torch.device) -> T:
    """Return what an expert gave on another device: a tensor, or a RegionBatch with all its tensors."""
    if isinstance(output, Tensor):
        return output.to(device)  # type: ignore[return-value]
    tensors = {field.name: getattr(output, field.name) for field in fields(output)}
    return replace(output, **{name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)})
