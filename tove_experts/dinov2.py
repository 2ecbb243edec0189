"""DINOv2: self-supervised features, strong on parts and correspondence; `-reg`: trained with register tokens."""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import IMAGENET
from tove_experts.timm_variants import BUILD, CONVERT, DYNAMIC, backbone, square

INPUT = square(518, 14, IMAGENET)


def _size(name: str, channels: int, params: int, flops: int) -> Variant:
    model = f"vit_{name}_dinov2.lvd142m"
    return backbone(model, INPUT, channels=channels, stride=14, params=params, flops=flops)


DINOV2 = ExpertSpec(
    api=1,
    name="dinov2",
    summary="DINOv2 ViT patch features, 37x37 grid at 518 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=INPUT,
    outputs={"patches": Grid(channels=768, stride=14)},
    options={"arguments": DYNAMIC},
    variants={
        "small": _size("small_patch14", 384, 22_056_192, 93_393_478_656),
        "base": _size("base_patch14", 768, 86_579_712, 303_147_436_032),
        "large": _size("large_patch14", 1024, 304_367_616, 1_013_607_653_376),
        "giant": _size("giant_patch14", 1536, 1_136_479_232, 3_566_685_917_184),
        "small-reg": _size("small_patch14_reg4", 384, 22_057_344, 93_765_657_600),
        "base-reg": _size("base_patch14_reg4", 768, 86_582_016, 304_231_532_544),
        "large-reg": _size("large_patch14_reg4", 1024, 304_370_688, 1_017_102_557_184),
        "giant-reg": _size("giant_patch14_reg4", 1536, 1_136_483_840, 3_578_443_075_584),
    },
    default="base",
    tiny={"arguments": DYNAMIC | {"img_size": 70, "depth": 2, "embed_dim": 48, "num_heads": 3}},
    tiny_input=square(70, 14, IMAGENET),
    homepage="https://github.com/facebookresearch/dinov2",
    citation="arXiv:2304.07193",
)
