"""The operators at the centre of tove: gate weights, the two gated mixes, token alignment.

Importing this package imports neither torch nor triton; the operators load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tove_kernels.activation_mix import gated_activation_mix, gated_activation_mix_and_weights
    from tove_kernels.align import align_tokens
    from tove_kernels.gating import gate_weights
    from tove_kernels.residual_mix import gated_mix

__all__ = ["align_tokens", "gate_weights", "gated_activation_mix", "gated_activation_mix_and_weights", "gated_mix"]

_LAZY = {
    "align_tokens": "tove_kernels.align.operator",
    "gate_weights": "tove_kernels.gating.reference",
    "gated_activation_mix": "tove_kernels.activation_mix.operator",
    "gated_activation_mix_and_weights": "tove_kernels.activation_mix.operator",
    "gated_mix": "tove_kernels.residual_mix.operator",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
