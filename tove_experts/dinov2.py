"""DINOv2: self-supervised features, strong on parts and correspondence.

Sizes, preprocessing, repository and licence as timm's `pretrained_cfg` of `vit_*_patch14_dinov2.lvd142m` gives them.
"""

from __future__ import annotations

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Variant, Weights


def _size(width: int, architecture: str, params: int) -> Variant:
    return Variant(
        outputs={"patches": Grid(channels=width, stride=14)},
        # Revision and hash were not known when this was written: the first download records both.
        weights=Weights(repo=f"timm/{architecture}.lvd142m", license="Apache-2.0", commercial=True),
        cost=Cost(params=params),
        options={"architecture": architecture},
    )


DINOV2 = ExpertSpec(
    api=1,
    name="dinov2",
    summary="DINOv2 ViT patch features, 37x37 grid at 518 pixels.",
    factory="tove_experts.adapters.timm_vit:build",
    convert="tove_experts.adapters.timm_vit:convert",
    input=Input(size=(518, 518), patch=14, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    outputs={"patches": Grid(channels=768, stride=14)},
    variants={
        "small": _size(384, "vit_small_patch14_dinov2", 22_056_192),
        "base": _size(768, "vit_base_patch14_dinov2", 86_579_712),
        "large": _size(1024, "vit_large_patch14_dinov2", 304_367_616),
    },
    default="base",
    homepage="https://github.com/facebookresearch/dinov2",
    citation="arXiv:2304.07193",
)
