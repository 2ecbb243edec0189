"""`align_tokens` as users call it, and its registration as a PyTorch operator without a gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, library

from tove_kernels.align.checks import check_align
from tove_kernels.align.reference import align_reference
from tove_kernels.dispatch import backend, plain


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
    cover the whole view, so nothing is cropped or shifted. Arithmetic is in float32, in float64 for float64 features.

    Args:
        features: [B, C, h, w], floating point, of any strides; channels-last is the fastest.
        grid: rows and columns of CLIP's tokens, N = rows * columns.
        norm: position: each position over its channels; fixed: (x - mean) / std per channel; none.
        mean, std: [C], for `fixed` and for nothing else.
        fold: s; the tokens get C * s * s channels, ordered channel, row, column.
        dtype: of the result, floating point; None: float32, or float64 for float64 features.

    Returns:
        [B, N, C * s * s], contiguous, without a gradient.

    Raises:
        ValueError: a gradient is asked for, or an argument does not fit.
        RuntimeError: TOVE_KERNELS is triton or compiled, and that cannot run here.
    """
    check_align(features, grid, norm, mean, std, fold, dtype)
    wanted = dtype or torch.promote_types(features.dtype, torch.float32)
    if (chosen := backend(features.device.type)) != "triton":
        return plain(align_reference, chosen)(features, grid, norm, mean, std, fold, wanted)
    return torch.ops.tove.align_tokens(features, grid[0], grid[1], norm, mean, std, fold, wanted)


library.define(
    "tove::align_tokens",
    "(Tensor features, SymInt rows, SymInt columns, str norm, Tensor? mean, Tensor? std, SymInt fold, ScalarType dtype)"
    " -> Tensor",
    # Tables of weights are made at the first call and kept: what inductor records as a CUDA graph may keep nothing.
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe),
)


@library.impl("tove::align_tokens", "default")
def _compute(
    features: Tensor,
    rows: int,
    columns: int,
    norm: str,
    mean: Tensor | None,
    std: Tensor | None,
    fold: int,
    dtype: torch.dtype,
) -> Tensor:
    if backend(features.device.type) == "triton":
        from tove_kernels.align.triton_launch import align_triton

        with torch.cuda.device_of(features):  # Triton launches on the current device, not on the tensors'
            return align_triton(features, (rows, columns), norm, mean, std, fold, dtype)
    return align_reference(features, (rows, columns), norm, mean, std, fold, dtype)


@library.register_fake("tove::align_tokens")
def _(
    features: Tensor,
    rows: int,
    columns: int,
    norm: str,
    mean: Tensor | None,
    std: Tensor | None,
    fold: int,
    dtype: torch.dtype,
) -> Tensor:
    return features.new_empty((features.shape[0], rows * columns, features.shape[1] * fold * fold), dtype=dtype)
