"""The public `gated_activation_mix`, and its registration with PyTorch: operators, and autograd outside them.

The operators `tove::gated_activation_mix` and its backward carry no gradient by themselves; call the functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from tove_kernels.activation_mix import reference
from tove_kernels.activation_mix.checks import check_activation_mix
from tove_kernels.dispatch import backend, differentiable_once, plain
from tove_kernels.gating.reference import Activation, Rule, accumulator


def gated_activation_mix(
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor] | None,
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    rule: Rule = "zero",
    activation: Activation = "softmax",
) -> Tensor:
    """Return Σ_k g_k · GELU(h_k + b_k), GELU in its exact (erf) form, g what `gate_weights` makes of the logits.

    A row that is off contributes exactly nothing, to the mix and to gradients, even where its hidden values are not
    finite. Types may be mixed: bias, activation and sums are in float32, or in float64 where any tensor has it.

    Args:
        hidden: K >= 1 tensors h_k [B, N, H]; views may be given, only one whose last stride is not 1 is copied.
        bias: K tensors [H], or None.
        logits: [B, N, E], E >= K; see `gate_weights` for it and for `mask`, `rule` and `activation`.

    Returns:
        [B, N, H] in the type of the first hidden tensor.

    Raises:
        ValueError: a shape, type or device does not fit, or there is no expert.
        RuntimeError: TOVE_KERNELS is triton or compiled, and that cannot run here.
    """
    return gated_activation_mix_and_weights(hidden, bias, logits, mask=mask, rule=rule, activation=activation)[0]


def gated_activation_mix_and_weights(
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor] | None,
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    rule: Rule = "zero",
    activation: Activation = "softmax",
) -> tuple[Tensor, Tensor]:
    """Return what `gated_activation_mix` does and the weights g it used, with one softmax for both.

    Returns:
        The mix [B, N, H]; the weights [B, N, K] in the type of the sums, exactly 0 where an expert is off. Both are
        differentiable.

    Raises:
        ValueError: a shape, type or device does not fit, or there is no expert.
        RuntimeError: TOVE_KERNELS is triton or compiled, and that cannot run here.
    """
    check_activation_mix(hidden, bias, logits, mask, rule, activation)
    if (chosen := backend(logits.device.type)) != "triton":
        run = plain(reference.gated_activation_mix, chosen)
        return run(hidden, bias, logits, mask=mask, rule=rule, activation=activation)
    if not torch.is_grad_enabled():
        return torch.ops.tove.gated_activation_mix(hidden, bias or [], logits, mask, rule, activation)
    return _ActivationMix.apply(  # type: ignore[return-value]
        logits, mask, rule, activation, len(hidden), *hidden, *(bias or [])
    )


class _ActivationMix(torch.autograd.Function):
    @staticmethod
    def forward(
        logits: Tensor, mask: Tensor | None, rule: str, activation: str, count: int, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        hidden, bias = tensors[:count], tensors[count:]
        return torch.ops.tove.gated_activation_mix(hidden, bias, logits, mask, rule, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, mask, ctx.rule, ctx.activation, ctx.count, *tensors = inputs
        ctx.save_for_backward(output[1], logits, mask, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        weights, logits, mask, *tensors = ctx.saved_tensors
        hidden, bias = tensors[: ctx.count], tensors[ctx.count :]
        nothing: tuple[Tensor | None, ...] = (None,) * (5 + len(tensors))
        of_logits, needed = ctx.needs_input_grad[0], ctx.needs_input_grad[5:]
        of_hidden, of_bias = any(needed[: ctx.count]), any(needed[ctx.count :])
        if (grad is None and grad_weights is None) or not (of_logits or of_hidden or of_bias):
            return nothing
        grad = torch.zeros_like(hidden[0]) if grad is None else grad
        gradients = torch.ops.tove.gated_activation_mix_backward(
            grad,
            grad_weights,
            weights,
            hidden,
            bias,
            logits,
            mask,
            ctx.rule,
            ctx.activation,
            [of_logits, of_bias, of_hidden],
        )
        found, biases, *each = differentiable_once(gradients, grad, grad_weights, logits, *tensors)
        # A new list, not +=: what Dynamo unpacks is a tuple to older versions of it.
        each = [*each, *(biases[k].to(one.dtype) if of_bias else None for k, one in enumerate(bias))]
        each = [one if wanted else None for one, wanted in zip(each, needed, strict=True)]
        return found if of_logits else None, None, None, None, None, *each


library.define(
    "tove::gated_activation_mix",
    "(Tensor[] hidden, Tensor[] bias, Tensor logits, Tensor? mask, str rule, str activation) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.define(
    "tove::gated_activation_mix_backward",
    "(Tensor grad, Tensor? grad_weights, Tensor weights, Tensor[] hidden, Tensor[] bias, Tensor logits, "
    "Tensor? mask, str rule, str activation, bool[] wanted) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@library.impl("tove::gated_activation_mix", "default")
def _forward(
    hidden: list[Tensor], bias: list[Tensor], logits: Tensor, mask: Tensor | None, rule: Any, activation: Any
) -> tuple[Tensor, Tensor]:
    if backend(logits.device.type) == "triton":
        from tove_kernels.activation_mix import triton_launch

        return triton_launch.forward(hidden, bias, logits, mask, rule, activation)
    with torch.no_grad():  # the operator carries no gradient, in either form
        mixed, weights = reference.gated_activation_mix(
            hidden, bias or None, logits, mask=mask, rule=rule, activation=activation
        )
    # Weights that were given may come back as they are, and an operator must not return its argument.
    return mixed.contiguous(), weights.clone(memory_format=torch.contiguous_format)


@library.impl("tove::gated_activation_mix_backward", "default")
def _backward(
    grad: Tensor,
    grad_weights: Tensor | None,
    weights: Tensor,
    hidden: list[Tensor],
    bias: list[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: Any,
    activation: Any,
    wanted: list[bool],
) -> list[Tensor]:
    flags = (wanted[0], wanted[1], wanted[2])
    if backend(logits.device.type) == "triton":
        from tove_kernels.activation_mix import triton_launch

        return triton_launch.backward(grad, grad_weights, weights, hidden, bias, logits, mask, rule, activation, flags)
    found = reference.gated_activation_mix_backward(
        grad, grad_weights, weights, hidden, bias, logits, mask, rule, activation, flags
    )
    return [one.contiguous() for one in found]


@library.register_fake("tove::gated_activation_mix")
def _(hidden: list[Tensor], bias: list[Tensor], logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    weights = logits.new_empty((*logits.shape[:2], len(hidden)), dtype=accumulator([logits, *hidden, *bias]))
    return hidden[0].new_empty(hidden[0].shape), weights


@library.register_fake("tove::gated_activation_mix_backward")
def _(
    grad: Tensor, _: Any, __: Any, hidden: list[Tensor], bias: list[Tensor], logits: Tensor, *rest: Any
) -> list[Tensor]:
    of_logits, of_bias, of_hidden = rest[-1]
    dtype = accumulator([grad, logits, *hidden, *bias])
    return [
        logits.new_empty(logits.shape if of_logits else 0),
        grad.new_empty((len(bias), grad.shape[-1]) if of_bias else 0, dtype=dtype),
        *[tokens.new_empty(tokens.shape if of_hidden else 0) for tokens in hidden],
    ]
