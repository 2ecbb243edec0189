"""Whether the gate still chooses: how spread its weights are, each expert's share, and what to do when it collapses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tove_core.config import GateConfig

DEAD = 0.01
"""An expert is dead below this share of the gate mass, in units of an equal share."""
COLLAPSED = 0.1
"""The gate has collapsed where the spread of its weights is below this; 1 is the spread of equal weights."""


@torch.no_grad()
def entropy(gates: Tensor) -> Tensor:
    """Return the entropy of gates [B, N, K], summed over samples and tokens; 1 per token where all K are equal.

    Weights are divided by their sum first, so that gates that need not sum to K (sigmoid, null option) count alike.
    """
    experts = gates.shape[-1]
    if experts < 2:
        return gates.new_zeros(())
    share = gates / gates.sum(-1, keepdim=True).clamp(min=torch.finfo(gates.dtype).tiny)
    return torch.special.entr(share).sum() / math.log(experts)


def dead_experts(shares: Mapping[str, float]) -> list[str]:
    """Return the experts whose share of the gate mass is next to nothing."""
    return [name for name, share in shares.items() if share * len(shares) < DEAD]


def diagnosis(shares: Mapping[str, float], spread: float | None, gate: GateConfig) -> str | None:
    """Say that the gate has collapsed or that experts are dead, and what to change; None: neither.

    Args:
        shares: of the gate mass, by expert; they sum to 1.
        spread: mean entropy of the gates, 1 where all are equal; None: there are not two to compare.
        gate: the configuration whose values are to be changed.
    """
    if len(shares) < 2 or spread is None:
        return None
    dead = dead_experts(shares)
    if spread < COLLAPSED or len(dead) == len(shares) - 1:
        strongest = max(shares, key=lambda name: shares[name])
        seen = f"the gate has collapsed: {strongest!r} holds {shares[strongest]:.0%} of its mass"
        if spread < COLLAPSED and shares[strongest] < 0.9:
            seen = f"the gate has collapsed: it gives each token to one expert alone (entropy {spread:.2f} of 1)"
    elif dead:
        seen = f"the gate hardly uses {', '.join(map(repr, dead))} any more"
    else:
        return None
    balance, noise = max(10 * gate.balance, 0.01), max(2 * gate.noise, 0.3)
    cures = [f"gate.noise to {noise:g} (it is {gate.noise:g})"]
    if gate.activation == "softmax":  # where experts do not compete, nothing balances them
        cures.insert(0, f"gate.balance to {balance:g} (it is {gate.balance:g})")
    return (
        f"{seen}; set model.fusion.{', '.join(cures)} or gate.temperature above {gate.temperature:g}, or detach what "
        "is not used"
    )
