"""Refuse arguments that do not fit each other: every form of the operator checks the same way, before it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RULES = ("zero", "renormalise")
ACTIVATIONS = ("softmax", "sigmoid")


def check_gate(logits: Tensor, experts: int, mask: Tensor | None, rule: str, activation: str) -> None:
    """Check the arguments of `gate_weights`; a mask is never broadcast, it is too easily of the wrong experts.

    Raises:
        ValueError: a shape or type does not fit, or `rule` or `activation` is not one there is.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; wanted one of {', '.join(RULES)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"there is no activation {activation!r}; wanted one of {', '.join(ACTIVATIONS)}")
    if logits.dim() != 3:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; wanted [B, N, E]")
    batch, tokens, entries = logits.shape
    if not 1 <= experts <= entries:
        raise ValueError(f"{experts} experts do not fit logits with {entries} entries; wanted 1 to {entries}")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype}; wanted torch.bool, True where an expert is on")
    if tuple(mask.shape) not in ((batch, experts), (batch, tokens, experts)):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}; wanted [{batch}, {experts}] or [{batch}, {tokens}, {experts}]"
        )


def check_mix(hidden: Sequence[Tensor], bias: Sequence[Tensor] | None, logits: Tensor) -> None:
    """Check the tensors of `gated_activation_mix` against each other.

    Raises:
        ValueError: shapes do not fit each other.
    """
    if not hidden:
        raise ValueError("no hidden tensors were given; wanted one [B, N, H] per expert")
    shapes = {tuple(tokens.shape) for tokens in hidden}
    if len(shapes) != 1 or hidden[0].dim() != 3:
        raise ValueError(f"hidden tensors have shapes {sorted(shapes)}; wanted one shape [B, N, H]")
    batch, tokens, width = hidden[0].shape
    if bias is not None and len(bias) != len(hidden):
        raise ValueError(f"{len(bias)} biases were given for {len(hidden)} experts; wanted one [H] each, or None")
    if bias is not None and any(tuple(one.shape) != (width,) for one in bias):
        raise ValueError(f"biases have shapes {[tuple(one.shape) for one in bias]}; wanted [{width}] each")
    if logits.dim() != 3 or logits.shape[:2] != (batch, tokens) or logits.shape[-1] < len(hidden):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; wanted [{batch}, {tokens}, E] with E of at least {len(hidden)}"
        )
