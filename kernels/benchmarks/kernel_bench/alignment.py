"""`align_tokens` and its rivals: the same steps in eager PyTorch, and what torch.compile makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tove_kernels import align_tokens

from kernel_bench.mixes import SMALL, compiled
from kernel_bench.traffic import align_bytes
from kernel_bench.workload import Compute, Form, Problem, Workload, own_forms


@dataclass(frozen=True)
class AlignShape:
    """B maps of C channels, square maps and grids, a norm, a fold and a layout."""

    batch: int
    channels: int
    size: int
    grid: int
    norm: Literal["position", "none"] = "none"
    fold: int = 1
    layout: Literal["channels-last", "NCHW"] = "channels-last"

    def __str__(self) -> str:
        folded = f" folded by {self.fold}" if self.fold > 1 else ""
        normed = f" {self.norm} norm" if self.norm != "none" else ""
        return f"B={self.batch} C={self.channels} {self.size}² to {self.grid}²{folded}{normed} {self.layout}"


SHAPES = [
    AlignShape(64, 1024, 37, 24),
    AlignShape(64, 1024, 16, 24),
    AlignShape(64, 1024, 24, 24, norm="position"),
    AlignShape(64, 1024, 37, 24, norm="position"),
    AlignShape(64, 256, 64, 24),
    AlignShape(64, 256, 48, 24, fold=2),
    AlignShape(64, 1024, 37, 24, layout="NCHW"),
    AlignShape(8, 768, 16, 14),
]
ON_CPU = AlignShape(8, 768, 16, 14, norm="position")


def align_workload(shape: AlignShape, dtype: torch.dtype, device: torch.device) -> Workload:
    """`align_tokens`: no leaves, fixed is the map."""
    grid = (shape.grid, shape.grid)

    def make(seed: int, device: torch.device) -> Problem:
        draw = torch.Generator(device).manual_seed(seed)
        size = (shape.batch, shape.channels, shape.size, shape.size)
        maps = torch.randn(size, generator=draw, device=device, dtype=dtype)
        if shape.layout == "channels-last":
            maps = maps.contiguous(memory_format=torch.channels_last)
        return Problem([], [maps], maps.new_zeros(()))

    def tove(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
        return align_tokens(fixed[0], grid, norm=shape.norm, fold=shape.fold, dtype=fixed[0].dtype)

    eager = _eager(shape)
    forms = {
        **own_forms(tove, device),
        "eager": Form(eager),
        "torch.compile": Form(compiled(eager)),
    }
    element = torch.finfo(dtype).bits // 8
    needed = align_bytes(shape.batch, shape.channels, (shape.size, shape.size), grid, shape.fold, element)
    return Workload(
        "align_tokens", str(shape), dtype, make, eager, needed, forms, "eager", small=needed["forward"] < SMALL
    )


def _eager(shape: AlignShape) -> Compute:
    wide = shape.grid * shape.fold

    def call(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
        values = fixed[0]
        if values.dtype != torch.float64:
            values = values.float()
        if shape.norm == "position":
            values = F.layer_norm(values.movedim(1, -1), (shape.channels,), eps=1e-6).movedim(-1, 1)
        if shape.size != wide:
            values = F.interpolate(values, (wide, wide), mode="bilinear", antialias=shape.size > wide)
        return F.pixel_unshuffle(values, shape.fold).flatten(2).transpose(1, 2).to(fixed[0].dtype).contiguous()

    return call
