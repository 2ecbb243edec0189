"""Plain PyTorch form of the residual mix and of its gradient: any device, float32 accumulation, nothing stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tove_kernels.gating.reference import Activation, Rule, accumulator, gate_weights, gate_weights_backward, per_token


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
    """Return v + Σ_k g_k e_k as `tove_kernels.gated_mix` does; differentiable as often as wanted."""
    dtype = accumulator([tokens, logits, *experts])
    weights = gate_weights(logits, len(experts), mask=mask, rule=rule, activation=activation).to(dtype)[:, prefix:]
    on = _body(mask, prefix)
    if on is not None:
        # x + -0.0 * 0.0 is x to the last bit, where x + 0.0 turns -0.0 into 0.0.
        weights = torch.where(on, weights, -weights.new_zeros(()))
    terms = ((weights[..., k : k + 1], _kept(one, on, k).to(dtype)) for k, one in enumerate(experts))
    if prefix:
        total = tokens.to(dtype, copy=True)
        body = total[:, prefix:]
    else:
        body = total = torch.addcmul(tokens.to(dtype), *next(terms))
    for gate, expert in terms:
        body.addcmul_(gate, expert)
    return total.to(tokens.dtype)


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
    weights = gate_weights(logits, len(experts), mask=mask, rule=rule, activation=activation).to(dtype)[:, prefix:]
    on, body = _body(mask, prefix), grad[:, prefix:].to(dtype)
    logits_wanted, experts_wanted = wanted
    of_weights = grad.new_zeros((*logits.shape[:2], len(experts)), dtype=dtype)
    found = []
    for k, expert in enumerate(experts):
        if logits_wanted:
            of_weights[:, prefix:, k] = torch.linalg.vecdot(body, _kept(expert, on, k).to(dtype))
        scaled = _kept(weights[..., k : k + 1] * body, on, k) if experts_wanted else expert.new_empty(0)
        found.append(scaled.to(expert.dtype))
    if not logits_wanted:
        return [logits.new_empty(0), *found]
    return [gate_weights_backward(of_weights, logits, mask, rule, activation, dtype), *found]


def _body(mask: Tensor | None, prefix: int) -> Tensor | None:
    """Return the mask of the rows after the prefix, with a token axis."""
    return mask[:, prefix:] if mask is not None and mask.dim() == 3 else per_token(mask)


def _kept(values: Tensor, on: Tensor | None, k: int) -> Tensor:
    """Return values [B, N, D] with zeros in the rows where expert k is off: 0 times NaN would be NaN."""
    return values if on is None else torch.where(on[..., k : k + 1], values, values.new_zeros(()))
