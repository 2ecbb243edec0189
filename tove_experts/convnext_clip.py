"""ConvNeXt-CLIP: CLIP's training of a convolutional backbone, whose features stay local and suit high resolutions."""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import CLIP
from tove_experts.timm_variants import BUILD, CONVERT, backbone, square


def _size(name: str, channels: int, params: int, flops: int, *, side: int = 256) -> Variant:
    return backbone(
        f"convnext_{name}", square(side, 32, CLIP), channels=channels, stride=32, params=params, flops=flops
    )


CONVNEXT_CLIP = ExpertSpec(
    api=1,
    name="convnext-clip",
    summary="OpenCLIP's ConvNeXt trained on LAION, 10x10 grid at 320 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=square(320, 32, CLIP),
    outputs={"patches": Grid(channels=1536, stride=32)},
    variants={
        "base": _size("base.clip_laion2b_augreg", 1024, 87_564_416, 40_107_638_784),
        "large": _size("large_mlp.clip_laion2b_augreg", 1536, 196_227_264, 89_756_467_200),
        "large-320": _size("large_mlp.clip_laion2b_ft_soup_320", 1536, 196_227_264, 140_244_480_000, side=320),
        "xxlarge": _size("xxlarge.clip_laion2b_soup", 3072, 843_391_872, 395_930_370_048),
    },
    default="large-320",
    tiny={"arguments": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 40)}},
    tiny_input=square(96, 32, CLIP),
    homepage="https://github.com/mlfoundations/open_clip",
    citation="arXiv:2212.07143",
)
