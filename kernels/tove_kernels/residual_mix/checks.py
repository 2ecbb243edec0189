"""Refuse arguments of the residual mix that do not fit each other, before anything is computed or launched."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tove_kernels.gating.checks import check_device, check_gate, check_listed, check_rows, check_same


def check_residual_mix(
    tokens: Tensor,
    experts: Sequence[Tensor],
    logits: Tensor,
    mask: Tensor | None,
    rule: str,
    activation: str,
    prefix: int,
) -> None:
    """Check the arguments of `gated_mix` against each other.

    Raises:
        ValueError: a shape, type or device does not fit, or there is no expert.
    """
    check_listed("experts", experts)
    if not experts:
        raise ValueError("no expert tensors were given; wanted one [B, N - prefix, D] per expert")
    if tokens.dim() != 3 or not tokens.is_floating_point():
        raise ValueError(f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; wanted floating point [B, N, D]")
    batch, count, width = tokens.shape
    if not 0 <= prefix <= count:
        raise ValueError(f"prefix is {prefix}; wanted 0 to {count}, the number of tokens")
    check_rows("tokens", batch, count)
    check_same("experts", experts, (batch, count - prefix, width), "[B, N - prefix, D]")
    if logits.dim() != 3 or tuple(logits.shape[:2]) != (batch, count) or logits.shape[-1] < len(experts):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; wanted [{batch}, {count}, E] with E of at least {len(experts)}"
        )
    check_gate(logits, len(experts), mask, rule, activation)
    check_device({"tokens": [tokens], "experts": experts, "logits": [logits]})
