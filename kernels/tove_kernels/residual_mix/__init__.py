"""v + Σ_k g_k e_k: add each expert's tokens to CLIP's, weighted by token-wise gates."""

from __future__ import annotations

from tove_kernels.residual_mix.operator import gated_mix

__all__ = ["gated_mix"]
