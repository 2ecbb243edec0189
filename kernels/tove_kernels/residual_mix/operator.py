"""The public `gated_mix`, and its registration with PyTorch: operators forward and backward, autograd outside them.

The operators `tove::gated_mix` and `tove::gated_mix_backward` carry no gradient by themselves; call the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from tove_kernels.dispatch import backend, differentiable_once, plain
from tove_kernels.gating.reference import Activation, Rule
from tove_kernels.residual_mix import reference
from tove_kernels.residual_mix.checks import check_residual_mix


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
    """Return v + Σ_k g_k e_k, token by token; g is what `gate_weights` makes of the logits.

    Types may be mixed: sums run in float32, or in float64 where any tensor has it. Experts may be views; only one
    whose last stride is not 1 is copied. Rows where an expert is off are not read, so that what they hold, NaN too,
    reaches neither the result nor a gradient; a row whose experts are all off is v to the last bit.

    Args:
        tokens: v [B, N, D].
        experts: K >= 1 tensors e_k [B, N - prefix, D].
        logits: [B, N, E], E >= K. The rows of the prefix are there, and ignored.
        mask: True where an expert is on, [B, K] or [B, N, K]; None: all on.
        rule: how an expert that is off leaves the softmax, `zero` or `renormalise`; see `gate_weights`.
        activation: `softmax`, `sigmoid`, or `given` for logits that are the weights [B, N, K] themselves.
        prefix: the first tokens of each image that pass unchanged (a class token: 1).

    Returns:
        [B, N, D] in the type of `tokens`.

    Raises:
        ValueError: a shape, type or device does not fit, or there is no expert.
        RuntimeError: TOVE_KERNELS is triton or compiled, and that cannot run here.
    """
    check_residual_mix(tokens, experts, logits, mask, rule, activation, prefix)
    if (chosen := backend(tokens.device.type)) != "triton":
        run = plain(reference.gated_mix, chosen)
        return run(tokens, experts, logits, mask=mask, rule=rule, activation=activation, prefix=prefix)
    if not torch.is_grad_enabled():
        return torch.ops.tove.gated_mix(tokens, experts, logits, mask, rule, activation, prefix)
    return _GatedMix.apply(tokens, logits, mask, rule, activation, prefix, *experts)  # type: ignore[return-value]


class _GatedMix(torch.autograd.Function):
    @staticmethod
    def forward(
        tokens: Tensor, logits: Tensor, mask: Tensor | None, rule: str, activation: str, prefix: int, *experts: Tensor
    ) -> Tensor:
        return torch.ops.tove.gated_mix(tokens, experts, logits, mask, rule, activation, prefix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, logits, mask, ctx.rule, ctx.activation, ctx.prefix, *experts = inputs
        ctx.save_for_backward(logits, mask, *experts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, mask, *experts = ctx.saved_tensors
        # v is added as it is, so its gradient is the output's own: no copy.
        of_tokens, of_logits = grad if ctx.needs_input_grad[0] else None, ctx.needs_input_grad[1]
        of_experts = ctx.needs_input_grad[6:]
        if not of_logits and not any(of_experts):
            return of_tokens, *[None] * (5 + len(experts))
        gradients = torch.ops.tove.gated_mix_backward(
            grad, experts, logits, mask, ctx.rule, ctx.activation, ctx.prefix, [of_logits, any(of_experts)]
        )
        found, *each = differentiable_once(gradients, grad, logits, *experts)
        each = [one if wanted else None for one, wanted in zip(each, of_experts, strict=True)]
        return of_tokens, found if of_logits else None, None, None, None, None, *each


library.define(
    "tove::gated_mix",
    "(Tensor tokens, Tensor[] experts, Tensor logits, Tensor? mask, str rule, str activation, int prefix) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.define(
    "tove::gated_mix_backward",
    "(Tensor grad, Tensor[] experts, Tensor logits, Tensor? mask, str rule, str activation, int prefix, bool[] wanted)"
    " -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@library.impl("tove::gated_mix", "default")
def _forward(
    tokens: Tensor, experts: list[Tensor], logits: Tensor, mask: Tensor | None, rule: Any, activation: Any, prefix: int
) -> Tensor:
    if backend(tokens.device.type) == "triton":
        from tove_kernels.residual_mix import triton_launch

        return triton_launch.forward(tokens, experts, logits, mask, rule, activation, prefix)
    with torch.no_grad():  # the operator carries no gradient, in either form
        mixed = reference.gated_mix(tokens, experts, logits, mask=mask, rule=rule, activation=activation, prefix=prefix)
    return mixed.contiguous()


@library.impl("tove::gated_mix_backward", "default")
def _backward(
    grad: Tensor,
    experts: list[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: Any,
    activation: Any,
    prefix: int,
    wanted: list[bool],
) -> list[Tensor]:
    flags = (wanted[0], wanted[1])
    if backend(grad.device.type) == "triton":
        from tove_kernels.residual_mix import triton_launch

        return triton_launch.backward(grad, experts, logits, mask, rule, activation, prefix, flags)
    found = reference.gated_mix_backward(grad, experts, logits, mask, rule, activation, prefix, flags)
    return [one.contiguous() for one in found]


@library.register_fake("tove::gated_mix")
def _(tokens: Tensor, experts: list[Tensor], *_: Any) -> Tensor:
    return tokens.new_empty(tokens.shape)


@library.register_fake("tove::gated_mix_backward")
def _(grad: Tensor, experts: list[Tensor], logits: Tensor, *rest: Any) -> list[Tensor]:
    of_logits, of_experts = rest[-1]
    return [
        logits.new_empty(logits.shape if of_logits else 0),
        *[expert.new_empty(expert.shape if of_experts else 0) for expert in experts],
    ]
