"""Plain PyTorch form of the residual mix and of its gradient: any device, float32 accumulation, nothing stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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


def gated_mix(
    tokens: Tensor,
    experts: Sequence[Tensor],
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    rule: Rule = "zero",
    activation: Activation = "softmax",
    prefix: int = 0,
) -> Tensor:
    """Return v + Σ_k g_k e_k as `tove_kernels.gated_mix` does, of checked arguments; differentiable again and again."""
    given = [tokens, logits, *experts]
    dtype = accumulator(given)
    weights = _weights(logits, len(experts), mask, rule, activation, prefix, dtype)
    on = _body(mask, prefix)
    if on is not None:
        # x + -0.0 * 0.0 is x to the last bit, where x + 0.0 turns -0.0 into 0.0.
        weights = torch.where(on, weights, -weights.new_zeros(()))
    terms = (cast(_kept(one, on, k), dtype) for k, one in enumerate(experts))
    gates = weights.unsqueeze(-1).unbind(2)
    return cast(weighted_sum(cast(tokens, dtype), gates, terms, prefix, record=recorded(given)), tokens.dtype)


def gated_mix_backward(
    grad: Tensor,
    experts: Sequence[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: Rule,
    activation: Activation,
    prefix: int,
    wanted: tuple[bool, bool],
) -> list[Tensor]:
    """Return gradients [logits, *experts] from that of the output; the tokens' own is the output's.

    Args:
        grad: [B, N, D].
        wanted: of the logits, of the experts; what is not wanted comes back as an empty tensor.
        experts, logits, mask, rule, activation, prefix: as the forward had them.
    """
    dtype = accumulator([grad, logits, *experts])
    weights = _weights(logits, len(experts), mask, rule, activation, prefix, dtype)
    on, body = _body(mask, prefix), cast(grad[:, prefix:], dtype)
    logits_wanted, experts_wanted = wanted
    of_weights = grad.new_zeros((*logits.shape[:2], len(experts)), dtype=dtype)
    found = []
    for k, expert in enumerate(experts):
        if logits_wanted:
            of_weights[:, prefix:, k] = torch.linalg.vecdot(body, cast(_kept(expert, on, k), dtype))
        scaled = _kept(weights[..., k : k + 1] * body, on, k) if experts_wanted else expert.new_empty(0)
        found.append(scaled.to(expert.dtype))
    if not logits_wanted:
        return [logits.new_empty(0), *found]
    return [gate_weights_backward(of_weights, logits, mask, rule, activation, dtype), *found]


def _weights(
    logits: Tensor, experts: int, mask: Tensor | None, rule: str, activation: str, prefix: int, dtype: torch.dtype
) -> Tensor:
    """Return the weights [B, N - prefix, K] of the rows after the prefix."""
    weights = checked_gate_weights(logits, experts, mask, rule, activation, dtype)
    return weights[:, prefix:] if prefix else weights


def _body(mask: Tensor | None, prefix: int) -> Tensor | None:
    """Return the mask of the rows after the prefix, with a token axis."""
    return mask[:, prefix:] if mask is not None and mask.dim() == 3 else per_token(mask)


def _kept(values: Tensor, on: Tensor | None, k: int) -> Tensor:
    """Return values [B, N, D] with zeros in the rows where expert k is off: 0 times NaN would be NaN."""
    return values if on is None else torch.where(on[..., k : k + 1], values, values.new_zeros(()))
