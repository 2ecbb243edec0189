"""Segment Anything: the image encoder, whose map knows boundaries and says little about what they enclose."""

from __future__ import annotations

from tove_core.spec import ExpertSpec, Grid, Input, Variant
from tove_experts.pixels import IMAGENET
from tove_experts.timm_variants import BUILD, CONVERT, backbone

# Positions relative to each other are learned for this size alone.
INPUT = Input(size=(1024, 1024), patch=16, **IMAGENET)


def _size(name: str, params: int, flops: int) -> Variant:
    return backbone(f"samvit_{name}_patch16.sa1b", INPUT, channels=256, stride=16, params=params, flops=flops)


SAM = ExpertSpec(
    api=1,
    name="sam",
    summary="Segment Anything's image encoder after its neck, 64x64 grid.",
    factory=BUILD,
    convert=CONVERT,
    input=INPUT,
    outputs={"patches": Grid(channels=256, stride=16)},
    variants={
        "base": _size("base", 89_670_912, 972_077_334_528),
        "large": _size("large", 308_278_272, 2_985_680_306_176),
        "huge": _size("huge", 637_026_048, 5_961_082_830_848),
    },
    default="base",
    # A window of 3 over 5x5 positions needs padding, as one of 14 over 64x64 does.
    tiny={"arguments": {"img_size": 80, "depth": 2, "embed_dim": 48, "num_heads": 3, "global_attn_indexes": (1,),
                        "window_size": 3}},
    tiny_input=Input(size=(80, 80), patch=16, **IMAGENET),
    homepage="https://github.com/facebookresearch/segment-anything",
    citation="arXiv:2304.02643",
)  # fmt: skip
