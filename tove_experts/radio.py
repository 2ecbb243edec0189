"""C-RADIO: one transformer that was taught by SigLIP, DINO and SAM at once (agglomerative); the commercial series.

Licence read in NVIDIA's model cards of C-RADIOv4 and in the agreement itself: "models are commercially usable". timm's
models are the backbone alone; the figures of the cards, some 20 million higher, count adaptors to the teachers too.
"""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Variant
from tove_experts.pixels import CLIP
from tove_experts.timm_variants import BUILD, CONVERT, DYNAMIC, backbone, square

INPUT = square(512, 16, CLIP)


def _size(name: str, channels: int, params: int, flops: int, *, version: int = 3) -> Variant:
    return backbone(
        f"vit_{name}_patch16_radio_v{version}.c_radio",
        INPUT,
        channels=channels,
        stride=16,
        params=params,
        flops=flops,
        license="LicenseRef-NVIDIA-Open-Model",
        license_url="https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
    )


RADIO = ExpertSpec(
    api=1,
    name="radio",
    summary="C-RADIO agglomerative ViT features, 32x32 grid at 512 pixels.",
    factory=BUILD,
    convert=CONVERT,
    input=INPUT,
    outputs={"patches": Grid(channels=768, stride=16)},
    options={"arguments": DYNAMIC},
    variants={
        "base": _size("base", 768, 86_456_064, 215_774_134_272),
        "large": _size("large", 1024, 304_202_752, 729_613_860_864),
        "huge": _size("huge", 1280, 631_983_360, 1_475_063_316_480),
        "giant": _size("giant", 1536, 1_136_027_136, 2_601_557_950_464),
        "so400m-v4": _size("so400m", 1152, 413_543_664, 984_925_771_776, version=4),
        "huge-v4": _size("huge", 1280, 631_985_920, 1_478_256_885_760, version=4),
    },
    default="base",
    tiny={"arguments": DYNAMIC | {"img_size": 80, "depth": 2, "embed_dim": 48, "num_heads": 3}},
    tiny_input=square(80, 16, CLIP),
    homepage="https://github.com/NVlabs/RADIO",
    citation="arXiv:2312.06709",
)
