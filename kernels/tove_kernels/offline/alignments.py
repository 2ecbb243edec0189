"""The launches of `align_tokens` that are compiled offline."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from tove_kernels.offline.case import BF16, Case


def align_cases() -> list[Case]:
    """Return the cases of `align_tokens`: kept, growing and shrinking grids, folds, norms and both layouts."""
    found = []
    for channels in (768, 1024, 1152, 1408):
        found.append(_align(f"kept, C={channels}", channels, 24, norm="position"))
        found.append(_align(f"37x37 to 24x24, C={channels}", channels, 37, norm="position"))
    return [
        *found,
        _align("16x16 to 24x24, C=1024", 1024, 16),
        _align("64x64 to 24x24, C=256", 256, 64, norm="position"),
        _align("16x16 to 24x24, fixed, C=1024", 1024, 16, norm="fixed"),
        _align("48x48 to 24x24 folded by 2, C=256", 256, 48, fold=2),
        _align("64x64 to 24x24 folded by 4, C=32", 32, 64, fold=4, norm="position"),
        _align("kept, NCHW, C=1024", 1024, 24, layout=torch.contiguous_format, wide="stores"),
        _align("37x37 to 24x24, NCHW, C=1024", 1024, 37, layout=torch.contiguous_format, wide="stores"),
    ]


def _align(
    label: str,
    channels: int,
    size: int,
    *,
    norm: str = "none",
    fold: int = 1,
    layout: torch.memory_format = torch.channels_last,
    wide: str = "both",
) -> Case:
    maps = torch.empty(64, channels, size, size, dtype=BF16, device="meta").to(memory_format=layout)
    shift = torch.empty(channels, device="meta") if norm == "fixed" else None

    def launch() -> object:
        from tove_kernels.align.triton_launch import align_triton

        return align_triton(maps, (24, 24), norm, shift, shift, fold, BF16)

    def resampled(constants: Mapping[str, Any]) -> tuple[int, int]:
        tile = prod(constants[name] for name in ("BLOCK_H", "BLOCK_W", "BLOCK_C", "CELLS"))
        unrolled = constants["UNROLLED"]
        return (tile * unrolled if wide == "both" else 0), tile

    def shrunk(constants: Mapping[str, Any]) -> tuple[int, int]:
        tile = constants["BLOCK_W"] * constants["BLOCK_C"]
        return tile * max(1, constants["COLUMN_TAPS"]), tile

    def rows(constants: Mapping[str, Any]) -> tuple[int, int]:
        tile = constants["BLOCK_T"] * constants["BLOCK_C"]
        return tile, tile

    return Case(
        f"align_tokens, {label}", launch, {"resample_fold": resampled, "shrink_rows": shrunk, "normalise_rows": rows}
    )
