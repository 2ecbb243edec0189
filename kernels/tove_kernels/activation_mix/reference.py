"""Plain PyTorch form of the gated activation mix: differentiable, any device, float32 accumulation.

B images, N tokens, K experts, E >= K softmax entries (entries past K are counted in the softmax but carry no expert:
detached experts that still count, and the null option), H hidden channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_kernels.activation_mix.checks import check_gate, check_mix

Rule = Literal["zero", "renormalise"]
Activation = Literal["softmax", "sigmoid"]


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

    Args:
        logits: [B, N, E].
        experts: K; the first K entries belong to experts.
        mask: True where an expert is on, [B, K] or [B, N, K]; None: all on.
        rule: how an expert that is off leaves. zero: its weight becomes 0 and the softmax still counts it;
            renormalise: it leaves the softmax, which is multiplied by the number of entries still in.
        activation: see above. The two rules are the same for sigmoid.

    Returns:
        [B, N, K] in at least float32; exactly 0 where an expert is off.

    Raises:
        ValueError: shapes do not fit each other, or the mask is not boolean.
    """
    check_gate(logits, experts, mask, rule, activation)
    values = logits.to(torch.promote_types(logits.dtype, torch.float32))
    on = None if mask is None else _per_token(mask)
    if activation == "sigmoid":
        weights = 2 * values[..., :experts].sigmoid()
    elif rule == "zero" or on is None:
        weights = values.softmax(-1)[..., :experts] * values.shape[-1]
    else:
        weights = _renormalised(values, experts, on)
    return weights if on is None else torch.where(on, weights, torch.zeros((), dtype=weights.dtype, device=on.device))


def gated_activation_mix(
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor] | None,
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    rule: Rule = "zero",
    activation: Activation = "softmax",
) -> Tensor:
    """Return Σ_k g_k · GELU(h_k + b_k), with GELU in its exact (erf) form.

    A row that is off contributes exactly nothing, to the mix and to gradients, even where its hidden values are not
    finite.

    Args:
        hidden: K tensors [B, N, H].
        bias: K tensors [H], or None.
        logits: [B, N, E], E >= K; see `gate_weights` for it and for `mask`, `rule` and `activation`.

    Returns:
        [B, N, H] in the dtype of `hidden`.

    Raises:
        ValueError: shapes do not fit each other.
    """
    check_mix(hidden, bias, logits)
    weights = gate_weights(logits, len(hidden), mask=mask, rule=rule, activation=activation)
    on = None if mask is None else _per_token(mask)
    total: Tensor | None = None
    for k, tokens in enumerate(hidden):
        shifted = tokens if bias is None else tokens + bias[k]
        if on is not None:
            # Before GELU, not after it: GELU(0) is 0, and a gradient of 0 times GELU'(nan) would be nan.
            shifted = torch.where(on[..., k : k + 1], shifted, shifted.new_zeros(()))
        active, gate = F.gelu(shifted).to(weights.dtype), weights[..., k : k + 1]
        total = gate * active if total is None else torch.addcmul(total, gate, active)
    return total.to(hidden[0].dtype)  # type: ignore[union-attr]  # check_mix refuses K = 0


def _renormalised(values: Tensor, experts: int, on: Tensor) -> Tensor:
    extra = values.shape[-1] - experts
    keep = torch.cat([on.expand(*values.shape[:-1], experts), on.new_ones(*values.shape[:-1], extra)], -1)
    # A finite floor: with -inf a row whose experts are all off would be NaN; it is zeroed by the caller instead.
    floor = torch.finfo(values.dtype).min
    weights = values.masked_fill(~keep, floor).softmax(-1)
    return weights[..., :experts] * keep.sum(-1, keepdim=True)


def _per_token(mask: Tensor) -> Tensor:
    return mask[:, None, :] if mask.dim() == 2 else mask
