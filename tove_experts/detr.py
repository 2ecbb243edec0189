"""DETR: objects of COCO's 80 categories, one box each and no suppression of duplicates.

Architecture as transformers' `DetrConfig` has it by default (`facebook/detr-resnet-50`), with another backbone or
dilation where the repository's name says so; preprocessing as `DetrImageProcessor` declares it, but for the shape: the
hub squashes the view to 800x800 where the processor keeps its proportions. Published sizes: arXiv:2005.12872, table 1.
FLOPs are counted by torch's FlopCounterMode, for one image.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Regions, Variant, Weights
from tove_experts.coco import COCO_91
from tove_experts.pixels import IMAGENET, bilinear


def _variant(backbone: str, params: int, flops: int, dilation: bool = False) -> Variant:
    config: dict[str, Any] = {"backbone": backbone, "dilation": dilation}
    name = backbone.replace("resnet", "resnet-") + ("-dc5" if dilation else "")
    # Revision and hash were not known when this was written: the first download records both.
    return Variant(
        weights=Weights(repo=f"facebook/detr-{name}", license="Apache-2.0", commercial=True),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


DETR = ExpertSpec(
    api=1,
    name="detr",
    summary="DETR: boxes of COCO's 80 categories, labels as text.",
    factory="tove_experts.adapters.transformers_detection:build_detr",
    convert="tove_experts.adapters.transformers_detection:convert",
    input=bilinear(800, 800, IMAGENET),
    outputs={"objects": Regions(limit=100, text=True)},
    options={"names": COCO_91, "threshold": 0.3},
    variants={
        "r50": _variant("resnet50", 41_524_768, 120_339_200_000),
        "r50-dc5": _variant("resnet50", 41_524_768, 245_964_800_000, dilation=True),
        "r101": _variant("resnet101", 60_464_672, 215_038_720_000),
        "r101-dc5": _variant("resnet101", 60_464_672, 340_664_320_000, dilation=True),
    },
    default="r50",
    tiny={
        "config": {
            "backbone": "resnet18",
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 8,
            "decoder_ffn_dim": 8,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "num_queries": 9,
        },
        # Random weights are never sure of anything.
        "threshold": 0.0,
    },
    tiny_input=bilinear(64, 96, IMAGENET),
    homepage="https://github.com/facebookresearch/detr",
    citation="arXiv:2005.12872",
)
