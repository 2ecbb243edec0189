"""Plain PyTorch form of the gated activation mix and of its gradient: any device, float32 accumulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_kernels.gating.reference import Activation, Rule, accumulator, gate_weights, gate_weights_backward, per_token


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
    dtype = accumulator([logits, *hidden, *(bias or [])])
    weights = gate_weights(logits, len(hidden), mask=mask, rule=rule, activation=activation).to(dtype)
    on = per_token(mask)
    total: Tensor | None = None
    for k, tokens in enumerate(hidden):
        gate, active = (
            weights[..., k : k + 1],
            F.gelu(_shifted(tokens, None if bias is None else bias[k], on, k, dtype)),
        )
        total = gate * active if total is None else total.addcmul_(gate, active)
    if total is None:
        raise ValueError("no hidden tensors were given; wanted one [B, N, H] per expert")
    return total.to(hidden[0].dtype), weights


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
    on, grad = per_token(mask), grad.to(dtype)
    of_logits, of_bias, of_hidden = wanted
    of_weights = torch.zeros_like(weights)
    biases: list[Tensor] = []
    found: list[Tensor] = []
    for k, tokens in enumerate(hidden):
        shifted = _shifted(tokens, bias[k] if bias else None, on, k, dtype)
        if of_logits:
            of_weights[..., k] = torch.linalg.vecdot(grad, F.gelu(shifted))
        if of_bias or of_hidden:
            inner = weights[..., k : k + 1] * grad * _gelu_slope(shifted)
            inner = inner if on is None else torch.where(on[..., k : k + 1], inner, inner.new_zeros(()))
            biases.append(inner.sum((0, 1)))
        found.append(inner.to(tokens.dtype) if of_hidden else tokens.new_empty(0))
    total = torch.stack(biases) if of_bias else grad.new_empty(0)
    if not of_logits:
        return [logits.new_empty(0), total, *found]
    of_weights = of_weights if grad_weights is None else of_weights + grad_weights.to(dtype)
    return [gate_weights_backward(of_weights, logits, mask, rule, activation, dtype), total, *found]


def _shifted(tokens: Tensor, bias: Tensor | None, on: Tensor | None, k: int, dtype: torch.dtype) -> Tensor:
    values = tokens.to(dtype) if bias is None else tokens.to(dtype) + bias.to(dtype)
    # Before GELU, not after it: GELU(0) is 0, and a gradient of 0 times GELU'(nan) would be nan.
    return values if on is None else torch.where(on[..., k : k + 1], values, values.new_zeros(()))


def _gelu_slope(values: Tensor) -> Tensor:
    """Return GELU'(x) = Φ(x) + x φ(x)."""
    return 0.5 * (1 + torch.erf(values * math.sqrt(0.5))) + values * torch.exp(-0.5 * values * values) / math.sqrt(
        2 * math.pi
    )
