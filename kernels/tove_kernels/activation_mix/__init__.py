"""Σ_k g_k · GELU(h_k + b_k): activate each expert's hidden tokens and mix them by token-wise gates."""

from __future__ import annotations

from tove_kernels.activation_mix.operator import gated_activation_mix, gated_activation_mix_and_weights

__all__ = ["gated_activation_mix", "gated_activation_mix_and_weights"]
