"""Σ_k g_k · GELU(h_k + b_k): activate each expert's hidden tokens and mix them by token-wise gates."""

from __future__ import annotations

from tove_kernels.activation_mix.reference import gate_weights, gated_activation_mix

__all__ = ["gate_weights", "gated_activation_mix"]
