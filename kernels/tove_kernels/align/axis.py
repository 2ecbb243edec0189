"""The taps of bilinear resampling along one axis: which source cells an output cell reads, and with what weights."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache  # without a limit: a CUDA graph that was captured reads the tables where they lie
def axis_taps(size: int, wanted: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first cell and the weights of each of `wanted` outputs on an axis of `size` cells.

    The filter is a triangle one source cell wide on each side, stretched by size / wanted where the axis shrinks: the
    bilinear filter of `F.interpolate(align_corners=False)`, and its antialiased form. Weights are computed in float64
    and rounded once. A table is made once per device and kept; make it before a CUDA graph is captured by one call.

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


def _taps(size: int, wanted: int, index: int) -> tuple[int, list[float]]:
    scale = size / wanted
    reach = max(scale, 1.0)
    centre = (index + 0.5) * scale
    if scale <= 1:
        # At the border the outer neighbour does not exist; the cell at the border stands in for it.
        centre = min(max(centre, 0.5), size - 0.5)
    first = max(math.floor(centre - reach - 0.5), 0)
    last = min(math.ceil(centre + reach - 0.5), size - 1)
    weights = [max(0.0, 1 - abs(cell + 0.5 - centre) / reach) for cell in range(first, last + 1)]
    while weights[0] == 0:
        weights, first = weights[1:], first + 1
    while weights[-1] == 0:
        weights.pop()
    total = math.fsum(weights)
    return first, [weight / total for weight in weights]
