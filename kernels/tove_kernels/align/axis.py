"""The taps of bilinear resampling along one axis: which source cells an output cell reads, and with what weights."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

HALF = Fraction(1, 2)


@cache  # without a limit: a CUDA graph that was captured reads the tables where they lie
def axis_taps(size: int, wanted: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first cell and the weights of each of `wanted` outputs on an axis of `size` cells.

    The filter is a triangle one source cell wide on each side, stretched by size / wanted where the axis shrinks: the
    bilinear filter of `F.interpolate(align_corners=False)`, and its antialiased form. Weights are computed exactly and
    rounded once. A table is made once per device and kept; make it before a CUDA graph is captured by one call.

    Returns:
        starts [wanted], int32, and weights [wanted, taps], `dtype`, padded with zeros behind the last tap. A cell
        outside the axis always has weight 0.
    """
    rows = [_taps(size, wanted, index) for index in range(wanted)]
    width = max(len(weights) for _, weights in rows)
    starts = torch.tensor([start for start, _ in rows], dtype=torch.int32)
    table = torch.zeros(wanted, width, dtype=torch.float64)
    for index, (_, weights) in enumerate(rows):
        table[index, : len(weights)] = torch.tensor(weights, dtype=torch.float64)
    # Rounded before it is moved: moving waits, and a kernel on another stream may be the first to read the table.
    return starts.to(device), table.to(dtype).to(device)


@cache
def axis_ends(size: int, wanted: int, device: torch.device) -> Tensor:
    """Return where each output's cells end, [wanted], int32: one behind the last that `axis_taps` gives a weight.

    Where the axis shrinks, ends rise from output to output, and no cell counts for more than two of them.
    """
    rows = [_taps(size, wanted, index) for index in range(wanted)]
    return torch.tensor([start + len(weights) for start, weights in rows], dtype=torch.int32).to(device)


def _taps(size: int, wanted: int, index: int) -> tuple[int, list[float]]:
    # In fractions: rounded, a weight of 0 may come out as 1e-16, and its cell would be read by every program.
    scale = Fraction(size, wanted)
    reach = max(scale, Fraction(1))
    centre = (index + HALF) * scale
    if scale <= 1:
        # At the border the outer neighbour does not exist; the cell at the border stands in for it.
        centre = min(max(centre, HALF), size - HALF)
    first = max(math.floor(centre - reach + HALF), 0)
    end = min(math.ceil(centre + reach - HALF), size)
    weights = [1 - abs(cell + HALF - centre) / reach for cell in range(first, end)]
    total = sum(weights)
    return first, [float(weight / total) for weight in weights]
