"""What every launcher does to its arguments before a Triton kernel sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from tove_kernels.gating.triton_gating import ACTIVATIONS


def row_major(tensor: Tensor) -> Tensor:
    """Return the tensor itself where its last stride is 1, else a contiguous copy: the one copy a launcher makes."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def image_strides(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the strides of the batch axis."""
    return tuple(tensor.stride(0) for tensor in tensors)


def token_strides(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the strides of the token axis."""
    return tuple(tensor.stride(1) for tensor in tensors)


def gate_constants(logits: Tensor, experts: int, mask: Tensor | None, rule: str, activation: str) -> dict[str, Any]:
    """Return the compile-time constants that the functions of `tove_kernels.gating.triton_gating` need."""
    return {
        "K": experts,
        "E": logits.shape[-1],
        "ACTIVATION": ACTIVATIONS[activation],
        "RENORMALISE": rule == "renormalise" and activation == "softmax",
        "MASK": mask_kind(mask),
    }


def mask_kind(mask: Tensor | None) -> int:
    """Return 0 for no mask, 1 for one per sample, 2 for one per token."""
    return 0 if mask is None else mask.dim() - 1


def options(dtype: torch.dtype, warps: int) -> dict[str, Any]:
    """Return the type of sums as a constant, and how a kernel is compiled."""
    return {
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": warps,
        # Said, because the default differs between versions of triton.
        "enable_fp_fusion": True,
    }
