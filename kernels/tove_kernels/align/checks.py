"""Refuse arguments of token alignment that do not fit each other, before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor

NORMS = ("position", "fixed", "none")


def check_align(
    features: Tensor, grid: tuple[int, int], norm: str, mean: Tensor | None, std: Tensor | None, fold: int
) -> None:
    """Check the arguments of `align_tokens`.

    Raises:
        ValueError: a shape, a device or a name does not fit, or a gradient is asked for.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (features, mean, std)):
        raise ValueError("a gradient was asked for through align_tokens; experts are frozen, detach their output")
    if features.dim() != 4:
        raise ValueError(f"the map has shape {tuple(features.shape)}; wanted [B, C, h, w]")
    if any(size < 1 for size in features.shape[1:]):
        raise ValueError(f"the map has shape {tuple(features.shape)}; wanted at least one channel, row and column")
    if len(grid) != 2 or any(size < 1 for size in grid):
        raise ValueError(f"the grid is {tuple(grid)}; wanted rows and columns of at least 1")
    if norm not in NORMS or fold < 1:
        raise ValueError(f"got norm {norm!r} and fold {fold}; wanted one of {', '.join(NORMS)}, and 1 or more")
    if norm == "fixed":
        _check_statistics(features, mean, std)


def _check_statistics(features: Tensor, mean: Tensor | None, std: Tensor | None) -> None:
    if mean is None or std is None:
        raise ValueError("norm 'fixed' needs mean and std per channel; measure them first")
    channels = features.shape[1]
    if not tuple(mean.shape) == tuple(std.shape) == (channels,):
        raise ValueError(
            f"mean and std have shapes {tuple(mean.shape)} and {tuple(std.shape)}; wanted [{channels}] each"
        )
    if not mean.device == std.device == features.device:
        raise ValueError(
            f"mean and std are on {mean.device} and {std.device}, the map on {features.device}; move them to one device"
        )
