"""SigLIP 2: image and text trained together by a sigmoid loss, with self-distillation for dense features."""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import HALF
from tove_experts.timm_variants import BUILD, CONVERT, DYNAMIC, backbone, square


def _size(name: str, channels: int, params: int, flops: int, *, side: int, patch: int = 16) -> Variant:
    # timm's `gap` repositories hold the same tower without its attention pooling, which dense features never use.
    return backbone(
        f"vit_{name}_patch{patch}_siglip_gap_{side}.v2_webli",
        square(side, patch, HALF),
        channels=channels,
        stride=patch,
        params=params,
        flops=flops,
    )


SIGLIP2 = ExpertSpec(
    api=1,
    name="siglip2",
    summary="SigLIP 2 ViT patch features, 32x32 grid at 512 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=square(512, 16, HALF),
    outputs={"patches": Grid(channels=768, stride=16)},
    options={"arguments": DYNAMIC},
    variants={
        "base-224": _size("base", 768, 85_797_120, 34_941_763_584, side=224),
        "base-384": _size("base", 768, 86_088_960, 110_754_791_424, side=384),
        "base-512": _size("base", 768, 86_433_024, 213_808_840_704, side=512),
        "large-256": _size("large", 1024, 303_361_024, 161_463_926_784, side=256),
        "large-384": _size("large", 1024, 303_688_704, 381_413_228_544, side=384),
        "large-512": _size("large", 1024, 304_147_456, 723_165_118_464, side=512),
        "so400m-224": _size("so400m", 1152, 412_442_352, 218_968_621_056, side=224, patch=14),
        "so400m-378": _size("so400m", 1152, 412_987_248, 666_448_114_176, side=378, patch=14),
        "so400m-384": _size("so400m", 1152, 413_018_352, 515_850_633_216, side=384),
        "so400m-512": _size("so400m", 1152, 413_534_448, 974_143_881_216, side=512),
        "giant-384": _size("giantopt", 1536, 1_135_329_792, 1_387_492_540_416, side=384),
    },
    default="base-512",
    # 112 is a multiple of both patch sizes.
    tiny={"arguments": DYNAMIC | {"img_size": 112, "depth": 2, "embed_dim": 48, "num_heads": 3}},
    tiny_input=square(112, 16, HALF),
    homepage="https://github.com/google-research/big_vision",
    citation="arXiv:2502.14786",
)
