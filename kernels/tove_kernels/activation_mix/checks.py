"""Refuse arguments of the activation mix that do not fit each other, before anything is computed or launched."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tove_kernels.gating.checks import check_device, check_gate, check_listed, check_rows, check_same


def check_activation_mix(
    hidden: Sequence[Tensor],
    bias: Sequence[Tensor] | None,
    logits: Tensor,
    mask: Tensor | None,
    rule: str,
    activation: str,
) -> None:
    """Check the arguments of `gated_activation_mix` against each other.

    Raises:
        ValueError: a shape, type or device does not fit, or there is no expert.
    """
    check_listed("hidden tensors", hidden)
    if not hidden:
        raise ValueError("no hidden tensors were given; wanted one [B, N, H] per expert")
    if not isinstance(hidden[0], Tensor) or hidden[0].dim() != 3:
        seen = f"has shape {tuple(hidden[0].shape)}" if isinstance(hidden[0], Tensor) else "is no tensor"
        raise ValueError(f"hidden[0] {seen}; wanted one shape [B, N, H] for every expert")
    batch, tokens, width = hidden[0].shape
    check_same("hidden", hidden, (batch, tokens, width), "one shape [B, N, H]")
    check_rows("hidden tensors", batch, tokens)
    if bias is not None:
        check_listed("biases", bias)
        if len(bias) != len(hidden):
            raise ValueError(f"{len(bias)} biases were given for {len(hidden)} experts; wanted one [H] each, or None")
        check_same("bias", bias, (width,), "[H]")
    if logits.dim() != 3 or tuple(logits.shape[:2]) != (batch, tokens) or logits.shape[-1] < len(hidden):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; wanted [{batch}, {tokens}, E] with E of at least {len(hidden)}"
        )
    check_gate(logits, len(hidden), mask, rule, activation)
    check_device({"hidden": hidden, "bias": bias or [], "logits": [logits]})
