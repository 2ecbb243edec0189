"""Offer the built-in experts. Imported whenever experts are listed, so nothing heavy may be imported here."""

from __future__ import annotations

from tove_core.hookspecs import hookimpl
from tove_core.spec import ExpertSpec
from tove_experts.convnext_clip import CONVNEXT_CLIP
from tove_experts.depth_anything import DEPTH_ANYTHING
from tove_experts.detr import DETR
from tove_experts.dinov2 import DINOV2
from tove_experts.dinov3 import DINOV3
from tove_experts.dinov3_convnext import DINOV3_CONVNEXT
from tove_experts.donut import DONUT
from tove_experts.dpt import DPT
from tove_experts.edges import EDGES
from tove_experts.eva02 import EVA02
from tove_experts.eva02_clip import EVA02_CLIP
from tove_experts.hf_backbone import HF_BACKBONE
from tove_experts.mask2former import MASK2FORMER
from tove_experts.normals import NORMALS
from tove_experts.owlv2 import OWLV2
from tove_experts.pe_spatial import PE_SPATIAL
from tove_experts.pp_ocr import PP_OCR
from tove_experts.radio import RADIO
from tove_experts.rt_detr import RT_DETR
from tove_experts.sam import SAM
from tove_experts.sam2 import SAM2
from tove_experts.segformer import SEGFORMER
from tove_experts.siglip2 import SIGLIP2
from tove_experts.timm_backbone import TIMM
from tove_experts.trocr import TROCR


@hookimpl
def tove_experts() -> list[ExpertSpec]:
    """Return the built-in experts."""
    return [
        CONVNEXT_CLIP,
        DEPTH_ANYTHING,
        DETR,
        DINOV2,
        DINOV3,
        DINOV3_CONVNEXT,
        DONUT,
        DPT,
        EDGES,
        EVA02,
        EVA02_CLIP,
        HF_BACKBONE,
        MASK2FORMER,
        NORMALS,
        OWLV2,
        PE_SPATIAL,
        PP_OCR,
        RADIO,
        RT_DETR,
        SAM,
        SAM2,
        SEGFORMER,
        SIGLIP2,
        TIMM,
        TROCR,
    ]
