"""Launch the Triton kernels of token alignment: kernels, tiles and orientation follow the map's shape and strides."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tove_kernels.align import triton_kernels as kernels
from tove_kernels.align.axis import axis_ends, axis_taps
from tove_kernels.align.reference import EPS
from tove_kernels.blocks import PROGRAMS
from tove_kernels.gating.reference import accumulator

NORM_CODES = {"none": 0, "position": 1, "fixed": 2}
SUMS = {torch.float32: tl.float32, torch.float64: tl.float64}
TILE = 4096  # elements of a program's tile: two or four 16-byte loads of bf16 per thread
ROW_LIMIT = 8192  # channels a program of `normalise_rows` can hold
STRIP_TILE = 1024  # elements of a program's tile of `shrink_rows`, which holds three of them
SHORTEST_STRIP = 4  # rows of the grid; the first of a strip costs as much as two
UNROLLED_TAPS = 2  # whose loads are in flight together; more cost registers, and with them blocks that share a core


def align_triton(
    features: Tensor,
    grid: tuple[int, int],
    norm: str,
    mean: Tensor | None,
    std: Tensor | None,
    fold: int,
    dtype: torch.dtype,
) -> Tensor:
    """Compute `align_tokens` on arguments that were checked; returns [B, N, C * fold * fold] in `dtype`.

    Traffic: the map once and the tokens once. Position norm reads the map twice where it resamples, folds or finds
    the channels strided, since a position's statistics are needed before any of its channels; there it also writes
    and reads 8 bytes per position. Rereads by neighbouring cells are left to the caches.
    """
    batch, channels, height, width = features.shape
    tokens = features.new_empty((batch, grid[0] * grid[1], channels * fold * fold), dtype=dtype)
    if batch == 0:
        return tokens
    size = (grid[0] * fold, grid[1] * fold)
    dense_rows = features.stride(2) == width * features.stride(3) or height == 1
    kept = size == (height, width)
    if norm == "position" and kept and fold == 1 and dense_rows and features.stride(1) == 1 and channels <= ROW_LIMIT:
        _normalise(features, tokens)
        return tokens
    first, second = mean, std
    if norm == "position":
        first, second = _statistics(features, dense_rows)
    if kept and fold == 1 and dense_rows:
        # Nothing moves: one long row of cells, which loads in whole vectors where a column block would not.
        features = features.as_strided(
            (batch, channels, 1, height * width), (*features.stride()[:2], 0, features.stride(3))
        )
        grid = (1, height * width)
    if fold == 1 and features.shape[2] > grid[0] and _channels_last(features):
        _shrink(features, tokens, grid, norm, first, second)
    else:
        _resample(features, tokens, grid, fold, norm, first, second)
    return tokens


def _constants(warps: int, **given: Any) -> dict[str, Any]:
    # Fusion is asked for explicitly: Triton 3.9 warns where it is not, and says that 3.10 will not fuse by itself.
    return given | {"num_warps": warps, "enable_fp_fusion": True}


def _strides(features: Tensor) -> dict[str, Any]:
    return dict(zip(("stride_b", "stride_c", "stride_h", "stride_w"), features.stride(), strict=True))


def _channels_last(features: Tensor) -> bool:
    return features.shape[1] > 1 and features.stride(1) <= features.stride(3)


def _normalise(features: Tensor, tokens: Tensor) -> None:
    batch, channels, height, width = features.shape
    block_c = triton.next_power_of_2(channels)
    block_t = max(1, TILE // block_c)
    kernels.normalise_rows[(batch * triton.cdiv(height * width, block_t),)](
        features, tokens, height * width, features.stride(0), features.stride(3), EPS,
        **_constants(4, C=channels, BLOCK_T=block_t, BLOCK_C=block_c, ACC=SUMS[accumulator([features])]),
    )  # fmt: skip


def _statistics(features: Tensor, dense_rows: bool) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = features.shape
    kind = accumulator([features])
    means = features.new_empty((batch, height, width), dtype=kind)
    scales = torch.empty_like(means)
    last = _channels_last(features)
    block_c = min(triton.next_power_of_2(channels), 1024 if last else 64)
    block_t = max(1, TILE // block_c)
    kernels.position_statistics[(batch * triton.cdiv(height * width, block_t),)](
        features, means, scales, height * width, width, **_strides(features), eps=EPS,
        **_constants(
            4, C=channels, CHANNELS_LAST=last, FLAT=dense_rows, BLOCK_T=block_t, BLOCK_C=block_c, ACC=SUMS[kind]
        ),
    )  # fmt: skip
    return means, scales


def _resample(
    features: Tensor,
    tokens: Tensor,
    grid: tuple[int, int],
    fold: int,
    norm: str,
    first: Tensor | None,
    second: Tensor | None,
) -> None:
    batch, channels, height, width = features.shape
    kind = accumulator([features])
    row_starts, row_weights, row_taps = _taps(features, height, grid[0] * fold, kind)
    column_starts, column_weights, column_taps = _taps(features, width, grid[1] * fold, kind)
    last = _channels_last(features)
    cells = triton.next_power_of_2(fold * fold)
    block_h, block_w, block_c = _tile(channels, cells, grid, last)
    unrolled = UNROLLED_TAPS if last and column_taps % UNROLLED_TAPS == 0 else 1
    programs = batch * triton.cdiv(grid[0], block_h) * triton.cdiv(grid[1], block_w) * triton.cdiv(channels, block_c)
    kernels.resample_fold[(programs,)](
        features, tokens, row_starts, row_weights, column_starts, column_weights,
        features if first is None else first, features if second is None else second,
        *grid, height, width, **_strides(features),
        **_constants(
            8, C=channels, FOLD=fold, CELLS=cells, ROW_TAPS=row_taps, COLUMN_TAPS=column_taps, NORM=NORM_CODES[norm],
            CHANNELS_LAST=last, UNROLLED=max(1, min(unrolled, column_taps)), BLOCK_H=block_h, BLOCK_W=block_w,
            BLOCK_C=block_c, ACC=SUMS[kind],
        ),
    )  # fmt: skip


def _shrink(
    features: Tensor, tokens: Tensor, grid: tuple[int, int], norm: str, first: Tensor | None, second: Tensor | None
) -> None:
    batch, channels, height, width = features.shape
    kind = accumulator([features])
    row_starts, row_weights, row_taps = _taps(features, height, grid[0], kind)
    column_starts, column_weights, column_taps = _taps(features, width, grid[1], kind)
    block_c = min(triton.next_power_of_2(channels), 128)
    block_w = min(STRIP_TILE // block_c, triton.next_power_of_2(grid[1]))
    beside = batch * triton.cdiv(grid[1], block_w) * triton.cdiv(channels, block_c)
    strip = max(SHORTEST_STRIP, grid[0] * beside // PROGRAMS)  # longer strips where there are programs enough
    kernels.shrink_rows[(beside * triton.cdiv(grid[0], strip),)](
        features, tokens, row_starts, axis_ends(height, grid[0], features.device), row_weights,
        column_starts, column_weights, features if first is None else first, features if second is None else second,
        *grid, width, strip, height * width, **_strides(features),
        **_constants(
            4, C=channels, ROW_TAPS=row_taps, COLUMN_TAPS=column_taps, NORM=NORM_CODES[norm], CHANNELS_LAST=True,
            BLOCK_W=block_w, BLOCK_C=block_c, ACC=SUMS[kind],
        ),
    )  # fmt: skip


def _taps(features: Tensor, size: int, wanted: int, kind: torch.dtype) -> tuple[Tensor, Tensor, int]:
    if size == wanted:
        return features, features, 0  # 0 taps: the kernel reads no table
    starts, weights = axis_taps(size, wanted, kind, features.device)
    return starts, weights, weights.shape[1]


def _tile(channels: int, cells: int, grid: tuple[int, int], channels_last: bool) -> tuple[int, int, int]:
    """Return rows and columns of tokens and channels of a tile: nearly square, so that few cells are read twice."""
    block_c = min(triton.next_power_of_2(channels), 128 if channels_last else 64, max(1, TILE // cells))
    tokens = max(1, min(TILE // (block_c * cells), 64))
    block_h = min(2 ** ((tokens.bit_length() - 1) // 2), triton.next_power_of_2(grid[0]))
    return block_h, min(tokens // block_h, triton.next_power_of_2(grid[1])), block_c
