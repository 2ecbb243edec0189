"""EVA-02: transformers trained to restore masked features of EVA-CLIP; `-448`: tuned on ImageNet-22k at 448 pixels."""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import CLIP
from tove_experts.timm_variants import BUILD, CONVERT, DYNAMIC, backbone, square


def _size(name: str, channels: int, params: int, flops: int, *, side: int = 224) -> Variant:
    return backbone(
        f"eva02_{name}",
        square(side, 14, CLIP),
        channels=channels,
        stride=14,
        params=params,
        flops=flops,
        license="MIT",
    )


EVA02 = ExpertSpec(
    api=1,
    name="eva02",
    summary="EVA-02 masked-image-modelling features, 16x16 grid at 224 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=square(224, 14, CLIP),
    outputs={"patches": Grid(channels=768, stride=14)},
    options={"arguments": DYNAMIC},
    variants={
        "tiny": _size("tiny_patch14_224.mim_in22k", 192, 5_501_760, 3_395_036_160),
        "small": _size("small_patch14_224.mim_in22k", 384, 21_620_352, 12_247_123_968),
        "base": _size("base_patch14_224.mim_in22k", 768, 85_757_184, 46_322_454_528),
        "large": _size("large_patch14_224.mim_m38m", 1024, 303_266_752, 161_998_700_544),
        "base-448": _size("base_patch14_448.mim_in22k_ft_in22k", 768, 86_347_008, 213_771_128_832, side=448),
        "large-448": _size("large_patch14_448.mim_m38m_ft_in22k", 1024, 304_053_184, 723_492_274_176, side=448),
    },
    default="base",
    tiny={"arguments": DYNAMIC | {"img_size": 70, "depth": 2, "embed_dim": 48, "num_heads": 3}},
    tiny_input=square(70, 14, CLIP),
    homepage="https://github.com/baaivision/EVA/tree/master/EVA-02",
    citation="arXiv:2303.11331",
)
