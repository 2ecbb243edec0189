"""Offers the expert `sam`. Imported whenever experts are listed, so nothing heavy may be imported here.

Repository, licence, image size, mean and standard deviation are those of timm's `pretrained_cfg` of
`samvit_*_patch16.sa1b`; the tests compare them. Parameters and multiply-adds are counted on the architecture.
"""

from __future__ import annotations

from tove_core import Cost, ExpertSpec, Grid, Input, Variant, Weights, hookimpl

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _size(name: str, params: int, flops: int) -> Variant:
    return Variant(
        # Revision and hash were not known when this was written: the first download records both.
        weights=Weights(repo=f"timm/samvit_{name}_patch16.sa1b", license="Apache-2.0", commercial=True),
        cost=Cost(params=params, flops=flops),
        options={"architecture": f"samvit_{name}_patch16"},
    )


SAM = ExpertSpec(
    api=1,
    name="sam",
    summary="Segment Anything's image encoder: boundaries and parts, 64x64 grid.",
    factory="tove_expert_sam.adapter:build",
    convert="tove_expert_sam.adapter:convert",
    # Not dynamic: its positions relative to each other are learned for this size.
    input=Input(size=(1024, 1024), patch=16, mean=MEAN, std=STD),
    outputs={"neck": Grid(channels=256, stride=16)},
    variants={
        "base": _size("base", 89_670_912, 972_077_334_528),
        "large": _size("large", 308_278_272, 2_985_680_306_176),
        "huge": _size("huge", 637_026_048, 5_961_082_830_848),
    },
    default="base",
    # 5x5 positions are no multiple of a window of 3, as 64x64 are none of one of 14: both are padded.
    tiny={
        "arguments": {
            "img_size": 80,
            "depth": 2,
            "embed_dim": 48,
            "num_heads": 3,
            "global_attn_indexes": (1,),
            "window_size": 3,
        }
    },
    tiny_input=Input(size=(80, 80), patch=16, mean=MEAN, std=STD),
    homepage="https://github.com/facebookresearch/segment-anything",
    citation="arXiv:2304.02643",
)


@hookimpl
def tove_experts() -> list[ExpertSpec]:
    """Return the experts of this plugin."""
    return [SAM]
