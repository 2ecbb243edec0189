"""Plain PyTorch form of token alignment: any device, float32 arithmetic or wider."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


def align_reference(
    features: Tensor,
    grid: tuple[int, int],
    norm: str,
    mean: Tensor | None,
    std: Tensor | None,
    fold: int,
    dtype: torch.dtype,
) -> Tensor:
    """Compute `align_tokens` on arguments that were checked; returns [B, N, C * fold * fold] in `dtype`."""
    values = features.to(torch.promote_types(features.dtype, torch.float32))
    if norm == "position":
        centred = values - values.mean(1, keepdim=True)
        values = centred * (centred.square().mean(1, keepdim=True) + EPS).rsqrt()
    elif mean is not None and std is not None and norm == "fixed":
        values = (values - mean[:, None, None].to(values)) / std[:, None, None].to(values)
    values = _resample(values, (grid[0] * fold, grid[1] * fold))
    tokens = F.pixel_unshuffle(values, fold).flatten(2).transpose(1, 2)
    return tokens.to(dtype).contiguous()


def _resample(values: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(values.shape[-2:]) == size:
        return values
    shrinks = values.shape[-2] > size[0] or values.shape[-1] > size[1]
    return F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=shrinks)
