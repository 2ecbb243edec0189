"""Offer the built-in experts. Imported whenever experts are listed, so nothing heavy may be imported here."""

from __future__ import annotations

from tove_core.hookspecs import hookimpl
from tove_core.spec import ExpertSpec
from tove_experts.depth_anything import DEPTH_ANYTHING
from tove_experts.detr import DETR
from tove_experts.dinov2 import DINOV2
from tove_experts.donut import DONUT
from tove_experts.dpt import DPT
from tove_experts.mask2former import MASK2FORMER
from tove_experts.normals import NORMALS
from tove_experts.owlv2 import OWLV2
from tove_experts.pp_ocr import PP_OCR
from tove_experts.rt_detr import RT_DETR
from tove_experts.sam2 import SAM2
from tove_experts.segformer import SEGFORMER
from tove_experts.trocr import TROCR


@hookimpl
def tove_experts() -> list[ExpertSpec]:
    """Return the built-in experts."""
    return [
        DEPTH_ANYTHING,
        DETR,
        DINOV2,
        DONUT,
        DPT,
        MASK2FORMER,
        NORMALS,
        OWLV2,
        PP_OCR,
        RT_DETR,
        SAM2,
        SEGFORMER,
        TROCR,
    ]
