"""Plain PyTorch form of token alignment. Forward only: experts are frozen, and what is trained comes after."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6
NORMS = ("position", "fixed", "none")


def align_tokens(
    features: Tensor,
    grid: tuple[int, int],
    *,
    norm: Literal["position", "fixed", "none"] = "none",
    mean: Tensor | None = None,
    std: Tensor | None = None,
    fold: int = 1,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Normalise a map, resample it to `fold` times the grid and fold space into channels.

    Resampling is bilinear (`align_corners=False`), antialiased along an axis that shrinks. Both the map and the grid
    cover the whole view, so nothing is cropped or shifted.

    Args:
        features: [B, C, h, w].
        grid: rows and columns of CLIP's tokens, N = rows * columns.
        norm: position: each position over its channels; fixed: (x - mean) / std per channel; none.
        mean, std: [C], for `fixed`.
        fold: s; the tokens get C * s * s channels, ordered channel, row, column.
        dtype: of the result; None: float32, or float64 for float64 features.

    Returns:
        [B, N, C * s * s], without a gradient.

    Raises:
        ValueError: a gradient is asked for, or an argument does not fit.
    """
    if features.requires_grad and torch.is_grad_enabled():
        raise ValueError("a gradient was asked for through align_tokens; experts are frozen, detach their output")
    if features.dim() != 4:
        raise ValueError(f"the map has shape {tuple(features.shape)}; wanted [B, C, h, w]")
    if norm not in NORMS or fold < 1:
        raise ValueError(f"got norm {norm!r} and fold {fold}; wanted one of {', '.join(NORMS)}, and 1 or more")
    values = features.to(torch.promote_types(features.dtype, torch.float32))
    if norm == "position":
        centred = values - values.mean(1, keepdim=True)
        values = centred * (centred.square().mean(1, keepdim=True) + EPS).rsqrt()
    elif norm == "fixed":
        if mean is None or std is None:
            raise ValueError("norm 'fixed' needs mean and std per channel; measure them first")
        if not mean.shape == std.shape == values.shape[1:2]:
            raise ValueError(
                f"mean and std have shapes {tuple(mean.shape)} and {tuple(std.shape)}; wanted [{values.shape[1]}] each"
            )
        values = (values - mean[:, None, None].to(values)) / std[:, None, None].to(values)
    values = _resample(values, (grid[0] * fold, grid[1] * fold))
    tokens = F.pixel_unshuffle(values, fold).flatten(2).transpose(1, 2)
    return tokens.to(dtype or values.dtype).contiguous()


def _resample(values: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(values.shape[-2:]) == size:
        return values
    shrinks = values.shape[-2] > size[0] or values.shape[-1] > size[1]
    return F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=shrinks)
