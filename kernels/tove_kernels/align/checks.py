"""Refuse arguments of token alignment that do not fit each other, before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor

NORMS = ("position", "fixed", "none")


def check_align(
    features: Tensor,
    grid: tuple[int, int],
    norm: str,
    mean: Tensor | None,
    std: Tensor | None,
    fold: int,
    dtype: torch.dtype | None,
) -> None:
    """Check the arguments of `align_tokens`.

    Raises:
        ValueError: a shape, a type, a device or a name does not fit, or a gradient is asked for.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (features, mean, std)):
        raise ValueError("a gradient was asked for through align_tokens; experts are frozen, detach their output")
    if features.dim() != 4:
        raise ValueError(f"the map has shape {tuple(features.shape)}; wanted [B, C, h, w]")
    # Whole numbers and classes are no quantities: what lies between two of them is neither.
    if not features.is_floating_point():
        raise ValueError(f"the map is {features.dtype}; wanted a floating-point type")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"tokens of {dtype} were asked for; wanted a floating-point type, others would cut them off")
    if any(size < 1 for size in features.shape[1:]):
        raise ValueError(f"the map has shape {tuple(features.shape)}; wanted at least one channel, row and column")
    if len(grid) != 2 or any(size < 1 for size in grid):
        raise ValueError(f"the grid is {tuple(grid)}; wanted rows and columns of at least 1")
    if norm not in NORMS or not isinstance(fold, (int, torch.SymInt)) or fold < 1:
        raise ValueError(
            f"got norm {norm!r} and fold {fold}; wanted one of {', '.join(NORMS)}, and a whole number, 1 or more"
        )
    if norm == "fixed":
        _check_statistics(features, mean, std)
    elif mean is not None or std is not None:
        raise ValueError(f"mean and std were given with norm {norm!r}, which has none; wanted norm 'fixed', or neither")


def _check_statistics(features: Tensor, mean: Tensor | None, std: Tensor | None) -> None:
    if mean is None or std is None:
        raise ValueError("norm 'fixed' needs mean and std per channel; measure them first")
    channels = features.shape[1]
    if not tuple(mean.shape) == tuple(std.shape) == (channels,):
        raise ValueError(
            f"mean and std have shapes {tuple(mean.shape)} and {tuple(std.shape)}; wanted [{channels}] each"
        )
    if not (mean.is_floating_point() and std.is_floating_point()):
        raise ValueError(f"mean and std are {mean.dtype} and {std.dtype}; wanted floating-point types")
    if not mean.device == std.device == features.device:
        raise ValueError(
            f"mean and std are on {mean.device} and {std.device}, the map on {features.device}; move them to one device"
        )
