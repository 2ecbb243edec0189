"""The sum that both mixes end in, v + Σ_k g_k x_k, in plain PyTorch, with its derivative written out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def recorded(tensors: Iterable[Tensor]) -> bool:
    """Tell whether autograd records what is done with these tensors, and `weighted_sum` should be told so.

    Not while a program is traced: the plain steps are what a compiler can fuse.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and any(one.requires_grad for one in tensors)


def weighted_sum(
    base: Tensor | None, gates: Sequence[Tensor], terms: Iterable[Tensor], prefix: int = 0, *, record: bool
) -> Tensor:
    """Return base + Σ_k g_k x_k in a tensor of its own; all have the type of the sum.

    Args:
        base: v [B, N, D], or None for zeros.
        gates: K tensors [B, N - prefix, 1].
        terms: K tensors x_k [B, N - prefix, D]; made one after the other where they are made on the way.
        prefix: tokens of `base` that pass unchanged.
        record: whether anything given is `recorded`: in backward, addcmul costs a pass over x_k that is not needed.
    """
    if record:
        return _WeightedSum.apply(base, prefix, *gates, *terms)  # type: ignore[return-value]
    return _add(base, gates, terms, prefix)


def _add(base: Tensor | None, gates: Sequence[Tensor], terms: Iterable[Tensor], prefix: int) -> Tensor:
    pairs = zip(gates, terms, strict=True)
    if base is None:
        gate, term = next(pairs)
        body = total = gate * term
    elif prefix:
        total = base.clone()
        body = total[:, prefix:]
    else:
        body = total = torch.addcmul(base, *next(pairs))
    for gate, term in pairs:
        body.addcmul_(gate, term)
    return total


class _WeightedSum(torch.autograd.Function):
    # Nothing but PyTorch's own steps, so it can be batched and differentiated again.
    generate_vmap_rule = True

    @staticmethod
    def forward(base: Tensor | None, prefix: int, *pairs: Tensor) -> Tensor:
        return _add(base, pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :], prefix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.prefix, *pairs = inputs
        ctx.save_for_backward(*pairs)
        ctx.save_for_forward(*pairs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        count, body = len(pairs) // 2, grad[:, ctx.prefix :] if ctx.prefix else grad
        found: list[Tensor | None] = [None] * len(pairs)
        for k in range(count):
            if needed[k]:
                found[k] = (body * pairs[count + k]).sum(-1, keepdim=True)
            if needed[count + k]:
                found[count + k] = body * pairs[k]
        # base is added as it is, so its gradient is the sum's own: no copy.
        return grad if ctx.needs_input_grad[0] else None, None, *found

    @staticmethod
    def jvp(ctx: Any, base: Tensor | None, _: None, *tangents: Tensor | None) -> Tensor:
        pairs = ctx.saved_tensors
        count = len(pairs) // 2
        moved = [
            (one if place < count else pairs[place - count]) * (pairs[count + place] if place < count else one)
            for place, one in enumerate(tangents)
            if one is not None
        ]
        body = sum(moved[1:], moved[0]) if moved else None
        if base is None:
            return body  # type: ignore[return-value]  # there is a tangent, else this is not asked for
        if body is None:
            return base
        return torch.cat([base[:, : ctx.prefix], base[:, ctx.prefix :] + body], 1)
