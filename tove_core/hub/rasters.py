"""Resamples the region of an image that is seen to every size that is wanted, sharing what can be shared.

Every result is, to the last bit, that of one antialiased `F.interpolate` of the whole region in float32, which goes
along the rows and then along the columns. Here the first pass is made in strips of rows, so that a large image is never
in memory as floats, and both passes are made once for all who want the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Colour = tuple[float, ...]
"""Red, green and blue, in 0..1."""

_STRIP = 1 << 20
"""Values of a strip, 4 MB, for each thread: few enough for a cache, and enough to share among the threads."""


class Canvas(NamedTuple):
    """A rectangle with the seen part of an image on it; what the image leaves free is padding.

    Attributes:
        image: uint8 [3, H, W], or float [3, H, W] in 0..1.
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        above: rows of padding above the image.
        left: columns of padding left of the image.
    """

    image: Tensor
    height: int
    width: int
    above: int = 0
    left: int = 0

    @property
    def padded(self) -> bool:
        """Whether there is padding anywhere."""
        return self.image.shape[1:] != (self.height, self.width)


class Raster(NamedTuple):
    """What a canvas is resampled to.

    Attributes:
        size: height and width in pixels.
        interpolation: "bicubic" or "bilinear".
        fill: colour of the padding; None where there is none, so that all may share it.
    """

    size: tuple[int, int]
    interpolation: str
    fill: Colour | None = None


class _Rows(NamedTuple):
    """What the first pass depends on: padding above and below the image comes after it."""

    width: int
    interpolation: str
    fill: Colour | None


def resampled(canvas: Canvas, rasters: Iterable[Raster]) -> dict[Raster, Tensor]:
    """Return the canvas at every raster, float32 [3, h, w]: in 0..1, or untouched where the size is its own."""
    beside = canvas.image.shape[2] != canvas.width
    wanted = {
        raster: _Rows(raster.size[1], raster.interpolation, raster.fill if beside else None) for raster in rasters
    }
    rows = _along_rows(canvas, dict.fromkeys(wanted.values()))
    return {raster: _along_columns(canvas, rows[first], raster) for raster, first in wanted.items()}


def _along_rows(canvas: Canvas, wanted: Iterable[_Rows]) -> dict[_Rows, Tensor]:
    """Return the image's rows, with the padding beside it, float32 [3, H, w]."""
    height, width, device = *canvas.image.shape[1:], canvas.image.device
    result = {one: torch.empty(3, height, one.width, device=device) for one in wanted}
    many = max(1, _STRIP * torch.get_num_threads() // (3 * canvas.width))
    strip = torch.empty(3, min(many, height), canvas.width, device=device)
    right = canvas.left + width
    for top in range(0, height, many):
        source = canvas.image[:, top : top + many]
        rows = strip[:, : source.shape[1]]
        rows[:, :, canvas.left : right] = source
        if source.dtype == torch.uint8:
            rows[:, :, canvas.left : right] /= 255
        for one, into in result.items():
            if one.fill is not None:
                colour = _pixel(one.fill, rows)
                rows[:, :, : canvas.left], rows[:, :, right:] = colour, colour
            into[:, top : top + many] = _interpolated(rows, (rows.shape[1], one.width), one.interpolation)
    return result


def _along_columns(canvas: Canvas, rows: Tensor, raster: Raster) -> Tensor:
    """Return what has been along the rows with the padding above and below it, along the columns as well."""
    below = canvas.height - canvas.above - rows.shape[1]
    if raster.fill is not None and canvas.above + below:
        row = _pixel(raster.fill, rows).expand(3, 1, canvas.width)
        row = _interpolated(row, (1, rows.shape[2]), raster.interpolation)
        rows = torch.cat([row.expand(3, canvas.above, -1), rows, row.expand(3, below, -1)], dim=1)
    rows = _interpolated(rows, raster.size, raster.interpolation)
    # Bicubic weights overshoot.
    return rows if raster.size == (canvas.height, canvas.width) else rows.clamp(0, 1)


def _interpolated(values: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if values.shape[1:] == size:
        return values
    return F.interpolate(values[None], size=size, mode=interpolation, antialias=True, align_corners=False)[0]


def _pixel(colour: Colour, like: Tensor) -> Tensor:
    return torch.tensor(colour, dtype=like.dtype, device=like.device)[:, None, None]
