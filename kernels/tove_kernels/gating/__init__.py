"""Gate weights from gate logits, shared by the two mixing operators."""

from __future__ import annotations

from tove_kernels.gating.reference import Activation, Rule, gate_weights

__all__ = ["Activation", "Rule", "gate_weights"]
