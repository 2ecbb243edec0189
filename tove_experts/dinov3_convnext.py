"""DINOv3 distilled into ConvNeXt: the features of the teacher from a convolutional backbone, cheap at high resolution.

Under the licence of DINOv3, as `dinov3`.
"""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.dinov3 import LICENSE, LICENSE_URL
from tove_experts.pixels import IMAGENET
from tove_experts.timm_variants import BUILD, CONVERT, backbone, square

INPUT = square(224, 32, IMAGENET)


def _size(name: str, channels: int, params: int, flops: int) -> Variant:
    return backbone(
        f"convnext_{name}.dinov3_lvd1689m",
        INPUT,
        channels=channels,
        stride=32,
        params=params,
        flops=flops,
        license=LICENSE,
        license_url=LICENSE_URL,
        commercial=None,
    )


DINOV3_CONVNEXT = ExpertSpec(
    api=1,
    name="dinov3-convnext",
    summary="DINOv3 distilled into ConvNeXt, 7x7 grid at 224 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=INPUT,
    outputs={"patches": Grid(channels=768, stride=32)},
    variants={
        "tiny": _size("tiny", 768, 27_818_592, 8_909_526_528),
        "small": _size("small", 768, 49_453_152, 17_365_888_512),
        "base": _size("base", 1024, 87_564_416, 30_707_410_944),
        "large": _size("large", 1536, 196_227_264, 68_719_795_200),
    },
    default="tiny",
    tiny={"arguments": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 40)}},
    tiny_input=square(96, 32, IMAGENET),
    homepage="https://github.com/facebookresearch/dinov3",
    citation="arXiv:2508.10104",
)
