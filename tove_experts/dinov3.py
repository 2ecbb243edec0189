"""DINOv3: self-supervised features of high resolution; `-sat`: trained on satellite images.

The weights are under Meta's own licence, whose terms (address below) are to be read before use. Meta's own downloads
are gated: they ask to accept it. timm's copies state the same licence.
"""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import IMAGENET
from tove_experts.timm_variants import BUILD, CONVERT, DYNAMIC, Statistics, backbone, square

LICENSE = "LicenseRef-DINOv3"
LICENSE_URL = "https://ai.meta.com/resources/models-and-libraries/dinov3-license"
SATELLITE: Statistics = {"mean": (0.43, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}


def _size(
    name: str,
    channels: int,
    params: int,
    flops: int,
    *,
    data: str = "lvd1689m",
    statistics: Statistics = IMAGENET,
) -> Variant:
    return backbone(
        f"vit_{name}_patch16_dinov3.{data}",
        square(256, 16, statistics),
        channels=channels,
        stride=16,
        params=params,
        flops=flops,
        license=LICENSE,
        license_url=LICENSE_URL,
        commercial=None,
    )


DINOV3 = ExpertSpec(
    api=1,
    name="dinov3",
    summary="DINOv3 ViT patch features, 16x16 grid at 256 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=square(256, 16, IMAGENET),
    outputs={"patches": Grid(channels=768, stride=16)},
    options={"arguments": DYNAMIC},
    variants={
        "small": _size("small", 384, 21_586_944, 12_490_573_824),
        "small-plus": _size("small_plus", 384, 28_683_264, 16_185_231_360),
        "base": _size("base", 768, 85_641_216, 47_149_092_864),
        "large": _size("large", 1024, 303_079_424, 164_737_941_504),
        "huge-plus": _size("huge_plus", 1280, 840_509_440, 449_549_598_720),
        "vit-7b": _size("7b", 4096, 6_716_030_976, 3_549_337_092_096),
        "large-sat": _size("large", 1024, 303_079_424, 164_737_941_504, data="sat493m", statistics=SATELLITE),
        "vit-7b-sat": _size("7b", 4096, 6_716_030_976, 3_549_337_092_096, data="sat493m", statistics=SATELLITE),
    },
    default="base",
    tiny={"arguments": DYNAMIC | {"img_size": 80, "depth": 2, "embed_dim": 48, "num_heads": 3}},
    tiny_input=square(80, 16, IMAGENET),
    homepage="https://github.com/facebookresearch/dinov3",
    citation="arXiv:2508.10104",
)
