"""Launch the Triton kernels of the residual mix on arguments that were checked."""

# Kernels annotate their constants as Triton wants it, and are given plain numbers.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from tove_kernels.blocks import backward_blocks, forward_blocks
from tove_kernels.gating.reference import accumulator
from tove_kernels.launch import gate_constants, image_strides, options, row_major, token_strides
from tove_kernels.residual_mix import triton_kernels


def forward(
    tokens: Tensor,
    experts: Sequence[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: str,
    activation: str,
    prefix: int,
) -> Tensor:
    """Return the mix [B, N, D], contiguous; arguments as `tove_kernels.gated_mix` has them."""
    batch, count, width = tokens.shape
    out = torch.empty((batch, count, width), device=tokens.device, dtype=tokens.dtype)
    if out.numel() == 0:
        return out
    tokens, experts, logits = row_major(tokens), [row_major(one) for one in experts], logits.contiguous()
    rows, dtype = batch * count, accumulator([tokens, logits, *experts])
    blocks = forward_blocks(width, rows)
    with torch.cuda.device_of(tokens):
        triton_kernels.forward[(triton.cdiv(rows, blocks.rows) * triton.cdiv(width, blocks.columns),)](
            tokens,
            tuple(experts),
            logits,
            logits if mask is None else mask.contiguous(),
            out,
            rows,
            count,
            prefix,
            tokens.stride(0),
            tokens.stride(1),
            image_strides(experts),
            token_strides(experts),
            D=width,
            PREFIX=prefix > 0,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            **options(dtype, blocks.warps),
            **gate_constants(logits, len(experts), mask, rule, activation),
        )
    return out


def backward(
    grad: Tensor,
    experts: Sequence[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: str,
    activation: str,
    prefix: int,
    wanted: tuple[bool, bool],
) -> list[Tensor]:
    """Return gradients [logits, *experts], contiguous, empty where not wanted; see `reference.gated_mix_backward`."""
    of_logits, of_experts = wanted
    batch, count, width = grad.shape
    make = torch.zeros if grad.numel() == 0 else torch.empty
    device, shape = grad.device, (batch, count - prefix, width)
    found = make(logits.shape if of_logits else 0, device=device, dtype=logits.dtype)
    each = [make(shape if of_experts else 0, device=device, dtype=one.dtype) for one in experts]
    if grad.numel() == 0:
        return [found, *each]
    grad, experts, logits = row_major(grad), [row_major(one) for one in experts], logits.contiguous()
    rows, dtype = batch * count, accumulator([grad, logits, *experts])
    blocks = backward_blocks(width, rows)
    with torch.cuda.device_of(grad):
        triton_kernels.backward[(triton.cdiv(rows, blocks.rows),)](
            grad,
            tuple(experts),
            tuple(each),
            logits,
            logits if mask is None else mask.contiguous(),
            found,
            rows,
            count,
            prefix,
            grad.stride(0),
            grad.stride(1),
            image_strides(experts),
            token_strides(experts),
            D=width,
            K2=triton.next_power_of_2(len(experts)),
            PREFIX=prefix > 0,
            OF_LOGITS=of_logits,
            OF_EXPERTS=of_experts,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            **options(dtype, blocks.warps),
            **gate_constants(logits, len(experts), mask, rule, activation),
        )
    return [found, *each]
