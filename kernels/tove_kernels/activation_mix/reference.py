"""Plain PyTorch form of the gated activation mix and of its gradient: any device, float32 accumulation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_kernels.gating.reference import (
    Activation,
    Rule,
    accumulator,
    cast,
    checked_gate_weights,
    gate_weights_backward,
    per_token,
)
from tove_kernels.gating.weighted_sum import recorded, weighted_sum


def gated_activation_mix(
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor] | None,
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    rule: Rule = "zero",
    activation: Activation = "softmax",
) -> tuple[Tensor, Tensor]:
    """Return Σ_k g_k GELU(h_k + b_k) and the weights g as `tove_kernels.gated_activation_mix` computes them."""
    given = [logits, *hidden, *(bias or [])]
    dtype = accumulator(given)
    weights = checked_gate_weights(logits, len(hidden), mask, rule, activation, dtype)
    on = per_token(mask)
    shifted = (_shifted(one, None if bias is None else bias[k], on, k, dtype) for k, one in enumerate(hidden))
    total = weighted_sum(None, weights.unsqueeze(-1).unbind(2), map(F.gelu, shifted), record=recorded(given))
    return cast(total, hidden[0].dtype), weights


def gated_activation_mix_backward(
    grad: Tensor,
    grad_weights: Tensor | None,
    weights: Tensor,
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: Rule,
    activation: Activation,
    wanted: tuple[bool, bool, bool],
) -> list[Tensor]:
    """Return gradients [logits, biases [K, H], *hidden]; the activation is computed again, not kept.

    Args:
        grad: of the mix, [B, N, H].
        grad_weights: of the returned weights, [B, N, K], or None.
        weights: those that the forward returned.
        bias: empty for none.
        wanted: of the logits, of the biases, of the hidden tensors; what is not wanted comes back empty.
        hidden, logits, mask, rule, activation: as the forward had them.
    """
    dtype = accumulator([grad, logits, *hidden, *bias])
    on, grad = per_token(mask), cast(grad, dtype)
    of_logits, of_bias, of_hidden = wanted
    of_weights = torch.zeros_like(weights)
    biases: list[Tensor] = []
    found: list[Tensor] = []
    for k, tokens in enumerate(hidden):
        shifted = _shifted(tokens, bias[k] if bias else None, on, k, dtype)
        if of_logits:
            of_weights[..., k] = torch.linalg.vecdot(grad, F.gelu(shifted))
        if of_bias or of_hidden:
            inner = torch.ops.aten.gelu_backward(weights[..., k : k + 1] * grad, shifted)
            inner = inner if on is None else torch.where(on[..., k : k + 1], inner, inner.new_zeros(()))
            biases.append(inner.sum((0, 1)))
        found.append(inner.to(tokens.dtype) if of_hidden else tokens.new_empty(0))
    total = torch.stack(biases) if of_bias else grad.new_empty(0)
    if not of_logits:
        return [logits.new_empty(0), total, *found]
    of_weights = of_weights if grad_weights is None else of_weights + grad_weights.to(dtype)
    return [gate_weights_backward(of_weights, logits, mask, rule, activation, dtype), total, *found]


def _shifted(tokens: Tensor, bias: Tensor | None, on: Tensor | None, k: int, dtype: torch.dtype) -> Tensor:
    values = cast(tokens, dtype) if bias is None else cast(tokens, dtype) + cast(bias, dtype)
    # Before GELU, not after it: GELU(0) is 0, and a gradient of 0 times GELU'(nan) would be nan.
    return values if on is None else torch.where(on[..., k : k + 1], values, values.new_zeros(()))
