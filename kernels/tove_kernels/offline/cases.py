"""The launches that are compiled offline: every Triton kernel of the package at the shapes it is made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

BF16 = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """One launch of an operator.

    Args:
        name: operator, shape and options.
        launch: calls the launcher on `meta` tensors.
        vectors: for the kernels whose main tensors must be read and written in 128 bits: by kernel, from the
            compile-time constants to the elements of a tile that a program loads and stores.
        bits: of an element of the main tensors.
    """

    name: str
    launch: Callable[[], object]
    vectors: Mapping[str, Callable[[Mapping[str, Any]], tuple[int, int]]]
    bits: int = 16


def cases() -> list[Case]:
    """Return all cases."""
    return align_cases()


def align_cases() -> list[Case]:
    """Return the cases of `align_tokens`: kept, growing and shrinking grids, folds, norms and both layouts."""
    found = []
    for channels in (768, 1024, 1152, 1408):
        found += [
            _align(f"kept, C={channels}", channels, 24, norm="position"),
            _align(f"16x16 to 24x24, C={channels}", channels, 16, norm="none"),
            _align(f"37x37 to 24x24, C={channels}", channels, 37, norm="position"),
        ]
    return [
        *found,
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

    def rows(constants: Mapping[str, Any]) -> tuple[int, int]:
        tile = constants["BLOCK_T"] * constants["BLOCK_C"]
        return tile, tile

    return Case(f"align_tokens, {label}", launch, {"resample_fold": resampled, "normalise_rows": rows})
