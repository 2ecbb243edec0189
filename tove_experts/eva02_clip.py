"""EVA-02-CLIP: EVA-02 trained on with captions, a CLIP stronger than most that are enhanced with it."""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import CLIP
from tove_experts.timm_variants import BUILD, CONVERT, DYNAMIC, backbone, square


def _size(name: str, channels: int, params: int, flops: int, *, side: int = 224, patch: int = 14) -> Variant:
    return backbone(
        f"eva02_{name}",
        square(side, patch, CLIP),
        channels=channels,
        stride=patch,
        params=params,
        flops=flops,
        license="MIT",
    )


EVA02_CLIP = ExpertSpec(
    api=1,
    name="eva02-clip",
    summary="EVA-02-CLIP patch features, 14x14 grid at 224 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=square(224, 16, CLIP),
    outputs={"patches": Grid(channels=768, stride=16)},
    options={"arguments": DYNAMIC},
    variants={
        "base": _size("base_patch16_clip_224.merged2b", 768, 85_869_312, 35_126_120_448, patch=16),
        "large": _size("large_patch14_clip_224.merged2b", 1024, 303_317_952, 161_998_700_544),
        "large-336": _size("large_patch14_clip_336.merged2b", 1024, 303_645_632, 381_861_494_784, side=336),
        "enormous": _size("enormous_patch14_clip_224.laion2b_plus", 1792, 4_348_720_896, 2_264_323_260_416),
    },
    default="base",
    # 112 is a multiple of both patch sizes.
    tiny={"arguments": DYNAMIC | {"img_size": 112, "depth": 2, "embed_dim": 48, "num_heads": 3}},
    tiny_input=square(112, 16, CLIP),
    homepage="https://github.com/baaivision/EVA/tree/master/EVA-CLIP",
    citation="arXiv:2303.15389",
)
