"""Offer the built-in experts. Imported whenever experts are listed, so nothing heavy may be imported here."""

from __future__ import annotations

from tove_core.hookspecs import hookimpl
from tove_core.spec import ExpertSpec
from tove_experts.detr import DETR
from tove_experts.dinov2 import DINOV2
from tove_experts.owlv2 import OWLV2
from tove_experts.pp_ocr import PP_OCR
from tove_experts.rt_detr import RT_DETR


@hookimpl
def tove_experts() -> list[ExpertSpec]:
    """Return the built-in experts."""
    return [DINOV2, DETR, RT_DETR, OWLV2, PP_OCR]
