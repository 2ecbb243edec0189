"""Plain PyTorch form of the gate weights, and their gradient written out for operators that recompute it.

B images, N tokens, K experts, E >= K entries: those past K are counted in the softmax but carry no expert (detached
experts that still count, and the null option).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from tove_kernels.gating.checks import check_gate

Rule = Literal["zero", "renormalise"]
Activation = Literal["softmax", "sigmoid", "given"]


def gate_weights(
    logits: Tensor,
    experts: int,
    *,
    mask: Tensor | None = None,
    rule: Rule = "zero",
    activation: Activation = "softmax",
) -> Tensor:
    """Turn gate logits into weights.

    softmax: softmax over the entries, times their number, so that equal logits give every expert weight 1.
    sigmoid: each expert by itself, times 2, so that zero logits give weight 1 too.
    given: the logits are the weights.

    Args:
        logits: [B, N, E].
        experts: K; the first K entries belong to experts.
        mask: True where an expert is on, [B, K] or [B, N, K]; None: all on.
        rule: how an expert that is off leaves. zero: its weight becomes 0 and the softmax still counts it;
            renormalise: it leaves the softmax, which is multiplied by the number of entries still in.
        activation: see above. The two rules are the same for sigmoid and given.

    Returns:
        [B, N, K] in at least float32; exactly 0 where an expert is off.

    Raises:
        ValueError: shapes do not fit each other, or the mask is not boolean.
    """
    check_gate(logits, experts, mask, rule, activation)
    return checked_gate_weights(logits, experts, mask, rule, activation, accumulator([logits]))


def checked_gate_weights(
    logits: Tensor, experts: int, mask: Tensor | None, rule: str, activation: str, dtype: torch.dtype
) -> Tensor:
    """Return what `gate_weights` does, computed and given in `dtype`, of arguments that an operator has checked."""
    values, on = cast(logits, dtype), per_token(mask)
    if activation == "softmax":
        shares, count = _softmax(values, experts, on, rule)
        weights = (shares if shares.shape[-1] == experts else shares[..., :experts]) * count
    else:
        weights = 2 * values[..., :experts].sigmoid() if activation == "sigmoid" else values
    return weights if on is None else torch.where(on, weights, weights.new_zeros(()))


def gate_weights_backward(
    grad: Tensor, logits: Tensor, mask: Tensor | None, rule: str, activation: str, dtype: torch.dtype
) -> Tensor:
    """Return the gradient of the logits [B, N, E], in their type, from that of the weights [B, N, K].

    Args:
        grad: of the weights; not read where an expert is off.
        dtype: the type to compute in.
        logits, mask, rule, activation: as `gate_weights` had them.
    """
    experts, on, values = grad.shape[-1], per_token(mask), cast(logits, dtype)
    grad = grad.to(dtype) if on is None else torch.where(on, grad.to(dtype), grad.new_zeros((), dtype=dtype))
    if activation == "given":
        return grad.to(logits.dtype)
    full = torch.zeros_like(values, memory_format=torch.contiguous_format)
    if activation == "sigmoid":
        share = values[..., :experts].sigmoid()
        full[..., :experts] = 2 * grad * share * (1 - share)
    else:
        shares, count = _softmax(values, experts, on, rule)
        full[..., :experts] = grad * count
        full = shares * (full - (shares * full).sum(-1, keepdim=True))
    return full.to(logits.dtype)


def accumulator(tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the type that sums over these tensors run in: float32, or float64 where one of them is."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in the type; it costs nothing where it has it, as `Tensor.to` does."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def per_token(mask: Tensor | None) -> Tensor | None:
    """Give a mask per sample [B, K] its token axis."""
    return mask[:, None, :] if mask is not None and mask.dim() == 2 else mask


def _softmax(values: Tensor, experts: int, on: Tensor | None, rule: str) -> tuple[Tensor, Tensor | int]:
    """Return each entry's share [B, N, E] and what a share of 1/E is multiplied by to be 1: the entries still in."""
    if rule == "zero" or on is None:
        return _over_entries(values), values.shape[-1]
    extra = values.shape[-1] - experts
    keep = torch.cat([on.expand(*values.shape[:-1], experts), on.new_ones(*values.shape[:-1], extra)], -1)
    # A finite floor: with -inf a row whose experts are all off would be NaN; the count of 0 makes it 0 instead.
    return _over_entries(values.masked_fill(~keep, torch.finfo(values.dtype).min)), keep.sum(-1, keepdim=True)


def _over_entries(values: Tensor) -> Tensor:
    """Return the softmax over the last axis, [B, N, E]; on a CPU with the tokens dense, not the entries."""
    if not values.is_cpu or torch.compiler.is_compiling():
        return values.softmax(-1)
    # Rows of few entries go through PyTorch's CPU softmax one by one, columns in whole vectors: a third of the time.
    return values.transpose(1, 2).softmax(1).transpose(1, 2)
