"""Perception Encoder, spatial: a CLIP tower aligned so that its last layer keeps what detection and depth need."""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import HALF
from tove_experts.timm_variants import BUILD, CONVERT, DYNAMIC, backbone, square


def _size(name: str, channels: int, params: int, flops: int, *, side: int = 512, patch: int = 16) -> Variant:
    return backbone(
        f"vit_pe_spatial_{name}_patch{patch}_{side}.fb",
        square(side, patch, HALF),
        channels=channels,
        stride=patch,
        params=params,
        flops=flops,
    )


PE_SPATIAL = ExpertSpec(
    api=1,
    name="pe-spatial",
    summary="Perception Encoder (spatial) patch features, 32x32 grid.",
    factory=BUILD,
    convert=CONVERT,
    input=square(512, 16, HALF),
    outputs={"patches": Grid(channels=768, stride=16)},
    options={"arguments": DYNAMIC},
    variants={
        "tiny": _size("tiny", 192, 5_683_200, 20_866_802_688),
        "small": _size("small", 384, 21_983_232, 63_498_110_976),
        "base": _size("base", 768, 86_433_792, 214_054_244_352),
        "large": _size("large", 1024, 303_964_160, 723_593_035_776, side=448, patch=14),
        "gigantic": _size("gigantic", 1536, 1_851_887_104, 4_108_912_164_864, side=448, patch=14),
    },
    default="base",
    # 112 is a multiple of both patch sizes.
    tiny={"arguments": DYNAMIC | {"img_size": 112, "depth": 2, "embed_dim": 48, "num_heads": 3}},
    tiny_input=square(112, 16, HALF),
    homepage="https://github.com/facebookresearch/perception_models",
    citation="arXiv:2504.13181",
)
