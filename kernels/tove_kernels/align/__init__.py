"""Bring an expert's map to CLIP's token grid: normalise, resample, fold space into channels."""

from __future__ import annotations

from tove_kernels.align.operator import align_tokens

__all__ = ["align_tokens"]
