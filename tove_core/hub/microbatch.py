"""Runs an expert on part of a batch at a time: as many images as told, or as measured memory allows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from tove_core.errors import ContractError, PlacementError
from tove_core.hub.regions import RegionBatch

T = TypeVar("T", Tensor, RegionBatch)
Outputs = Mapping[str, Any]
"""By output name: a tensor [B, ...] or a RegionBatch."""

SHARE = 0.8
"""Of the memory that is free, the share a micro-batch may take: allocators waste some, and peaks vary."""


class MicroBatch:
    """How many images one expert takes at a time. What does not fit is halved, with a warning, and stays halved.

    Attributes:
        size: images at a time; None: all there are, or with `auto` not measured yet.
    """

    def __init__(self, name: str, setting: int | Literal["auto"]) -> None:
        """Remember the setting.

        Args:
            name: the expert, for messages.
            setting: a number, or `auto`: on a CUDA device the first image is run by itself and measured; elsewhere
                there is nothing to measure and the whole batch is tried.
        """
        self.name = name
        self.size = setting if isinstance(setting, int) else None
        self._measures = setting == "auto"

    def run(self, call: Callable[[Tensor], Outputs], pixels: Tensor, device: torch.device) -> dict[str, Any]:
        """Return what `call` gives for pixels [B, 3, H, W], made of what it gives for parts of them.

        Args:
            call: the expert.
            pixels: a batch, on any device.
            device: where the expert runs.

        Raises:
            PlacementError: not even one image fits into memory.
            ContractError: parts of the batch come in forms that make no whole.
        """
        parts: list[Outputs] = []
        start = 0
        if self._measures and self.size is None and device.type == "cuda" and len(pixels) > 1:
            parts, start = [self._measured(call, pixels[:1], device)], 1
        while start < len(pixels):
            size = min(self.size or len(pixels), len(pixels) - start)
            if (part := self._tried(call, pixels[start : start + size], device)) is not None:
                parts.append(part)
                start += size
            elif device.type == "cuda":  # only here has the error let go of what the failed run held
                torch.cuda.empty_cache()
        return {key: self._joined(key, [part[key] for part in parts]) for key in parts[0]}

    def _joined(self, key: str, parts: list[Any]) -> Any:
        try:
            return join(parts)
        except ValueError as error:
            raise ContractError(f"expert '{self.name}': output '{key}' differs from part to part: {error}") from error

    def _tried(self, call: Callable[[Tensor], Outputs], pixels: Tensor, device: torch.device) -> Outputs | None:
        """Return the outputs for some images, or None where they did not fit and fewer are to be tried."""
        try:
            return call(pixels)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._halve(len(pixels), device, error)
        return None

    def _measured(self, call: Callable[[Tensor], Outputs], one: Tensor, device: torch.device) -> Outputs:
        """Return the outputs for one image, and set `size` by the memory it took."""
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            outputs = call(one)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise self._too_large(device) from error
            raise
        torch.cuda.synchronize(device)
        need = torch.cuda.max_memory_allocated(device) - before
        self.size = images_that_fit(need, free_memory(device))
        return outputs

    def _halve(self, size: int, device: torch.device, error: RuntimeError) -> None:
        if size == 1:
            raise self._too_large(device) from error
        self.size = size // 2
        warnings.warn(
            f"expert {self.name!r} ran out of memory with {size} images on {device}; it goes on with {self.size} at a "
            f"time, set its micro_batch to {self.size} to begin with that",
            stacklevel=2,
        )

    def _too_large(self, device: torch.device) -> PlacementError:
        return PlacementError(
            f"expert {self.name!r} does not fit one image into the memory of {device}; give it another device, "
            "dtype bfloat16 or offload"
        )


def free_memory(device: torch.device) -> int:
    """Return the bytes left on a CUDA device; what torch holds and does not use is as good as free."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def images_that_fit(need: int, free: int) -> int:
    """Return how many images of `need` bytes each go into `SHARE` of `free` bytes; at least one."""
    return max(1, int(SHARE * free) // max(need, 1))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error is, or was caused by, a device that has no memory left."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__
    return False


def join(parts: Sequence[T]) -> T:
    """Return the outputs for parts of a batch as one, in their order.

    A detector may give each part as many slots as its fullest image needs: all get the most, by slots not valid.

    Raises:
        ValueError: one part of a RegionBatch has a field that another lacks, or masks of another raster.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts))  # type: ignore[arg-type, return-value]
    joined: dict[str, Any] = {}
    for field in fields(first):
        values = [getattr(part, field.name) for part in parts]
        if any(value is None for value in values):
            if any(value is not None for value in values):
                raise ValueError(
                    f"{field.name} is given for some images of a batch and not for others; give it for all or none"
                )
            joined[field.name] = None
        elif isinstance(values[0], Tensor):
            joined[field.name] = _widened(field.name, values)
        else:
            rows = [row for value in values for row in value]
            most = max(map(len, rows))
            joined[field.name] = [[*row, *[""] * (most - len(row))] for row in rows]
    return type(first)(**joined)


def _widened(name: str, parts: Sequence[Tensor]) -> Tensor:
    """Join tensors [B, R, ...] of different R; slots that are added hold zeros, in `valid` False."""
    if len({part.shape[2:] for part in parts}) > 1:
        rasters = " and ".join(str(list(shape)) for shape in dict.fromkeys(part.shape[2:] for part in parts))
        raise ValueError(f"{name} of a slot are {rasters}; give them one size")
    most = max(part.shape[1] for part in parts)
    filled = [torch.cat([p, p.new_zeros(len(p), most - p.shape[1], *p.shape[2:])], 1) for p in parts]
    return torch.cat(filled)
