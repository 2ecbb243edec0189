"""Launch the Triton kernels of the activation mix on arguments that were checked."""

# Kernels annotate their constants as Triton wants it, and are given plain numbers.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from tove_kernels.activation_mix import triton_kernels
from tove_kernels.blocks import activation_backward_blocks, forward_blocks, row_block, span
from tove_kernels.gating.reference import accumulator
from tove_kernels.launch import gate_constants, image_strides, mask_kind, options, row_major, token_strides


def forward(
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: str,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """Return the mix [B, N, H] and the weights [B, N, K]; `bias` is empty for none."""
    batch, count, width = hidden[0].shape
    dtype = accumulator([logits, *hidden, *bias])
    device = logits.device
    make = torch.zeros if hidden[0].numel() == 0 else torch.empty
    out = make((batch, count, width), device=device, dtype=hidden[0].dtype)
    weights = make((batch, count, len(hidden)), device=device, dtype=dtype)
    if hidden[0].numel() == 0:
        return out, weights
    hidden, logits = [row_major(one) for one in hidden], logits.contiguous()
    rows = batch * count
    blocks = forward_blocks(width, rows)
    with torch.cuda.device_of(logits):
        triton_kernels.forward[(triton.cdiv(rows, blocks.rows) * triton.cdiv(width, blocks.columns),)](
            tuple(hidden),
            tuple(one.contiguous() for one in bias) or tuple(hidden),
            logits,
            logits if mask is None else mask.contiguous(),
            out,
            weights,
            rows,
            count,
            image_strides(hidden),
            token_strides(hidden),
            H=width,
            BIAS=bool(bias),
            SHORT=_short(hidden),
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            **options(dtype, blocks.warps),
            **gate_constants(logits, len(hidden), mask, rule, activation),
        )
    return out, weights


def backward(
    grad: Tensor,
    grad_weights: Tensor | None,
    weights: Tensor,
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: str,
    activation: str,
    wanted: tuple[bool, bool, bool],
) -> list[Tensor]:
    """Return gradients [logits, biases [K, H], *hidden]; see `reference.gated_activation_mix_backward`."""
    of_logits, of_bias, of_hidden = wanted
    batch, count, width = grad.shape
    rows, experts = batch * count, len(hidden)
    dtype, device = accumulator([grad, logits, *hidden, *bias]), grad.device
    make = torch.zeros if grad.numel() == 0 else torch.empty
    found = make(logits.shape if of_logits else 0, device=device, dtype=logits.dtype)
    each = [make(one.shape if of_hidden else 0, device=device, dtype=one.dtype) for one in hidden]
    if grad.numel() == 0:
        return [found, torch.zeros((experts, width) if of_bias else 0, device=device, dtype=dtype), *each]
    grad, hidden, logits = row_major(grad), [row_major(one) for one in hidden], logits.contiguous()
    mask, weights = None if mask is None else mask.contiguous(), weights.contiguous()
    blocks = activation_backward_blocks(width, rows)
    across = triton.cdiv(width, blocks.columns)
    rows_each = span(rows, blocks, across)
    spans = triton.cdiv(rows, rows_each)
    dots = torch.empty((across, rows, experts) if of_logits else 0, device=device, dtype=dtype)
    sums = torch.empty((spans, experts, width) if of_bias else 0, device=device, dtype=dtype)
    with torch.cuda.device_of(grad):
        triton_kernels.backward[(spans * across,)](
            grad,
            tuple(hidden),
            tuple(each),
            tuple(one.contiguous() for one in bias) or tuple(hidden),
            weights,
            weights if mask is None else mask,
            dots,
            sums,
            rows,
            count,
            rows_each,
            grad.stride(0),
            grad.stride(1),
            image_strides(hidden),
            token_strides(hidden),
            H=width,
            BIAS=bool(bias),
            OF_LOGITS=of_logits,
            OF_BIAS=of_bias,
            OF_HIDDEN=of_hidden,
            SHORT=_short(hidden),
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            K=experts,
            K2=triton.next_power_of_2(experts),
            MASK=mask_kind(mask),
            **options(dtype, blocks.warps),
        )
        if of_logits:
            block = row_block(rows)
            triton_kernels.logits_backward[(triton.cdiv(rows, block),)](
                dots,
                logits if grad_weights is None else grad_weights.contiguous(),
                logits,
                logits if mask is None else mask,
                found,
                rows,
                count,
                across,
                OF_WEIGHTS=grad_weights is not None,
                ROWS=block,
                **options(dtype, 4),
                **gate_constants(logits, experts, mask, rule, activation),
            )
    return [found, sums.sum(0) if of_bias else sums, *each]


def _short(hidden: Sequence[Tensor]) -> bool:
    """Tell whether all of what goes through the activation has 16 bits, as its results then have."""
    return all(one.element_size() == 2 for one in hidden)
