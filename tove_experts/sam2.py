"""SAM 2.1: features of its image encoder, strong on the borders of objects and parts.

Sizes as transformers' `convert_sam2_to_hf.py` sets them and `Sam2HieraDetConfig` documents; preprocessing as
`Sam2ImageProcessor` declares it. The repositories hold the whole video model; its image encoder is what is loaded.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Variant, Weights
from tove_experts.pixels import IMAGENET, bilinear


def _config(width: int, heads: int, blocks: list[int], whole: list[int], **backbone: Any) -> dict[str, Any]:
    stages = [width * 2**stage for stage in range(4)]
    return {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": width,
            "num_attention_heads": heads,
            "blocks_per_stage": blocks,
            "embed_dim_per_stage": stages,
            "num_attention_heads_per_stage": [heads * 2**stage for stage in range(4)],
            "global_attention_blocks": whole,
            **backbone,
        },
        "backbone_channel_list": stages[::-1],
    }


def _size(name: str, config: dict[str, Any], params: int, flops: int) -> Variant:
    return Variant(
        # Revision and hash were not known when this was written: the first download records both.
        weights=Weights(repo=f"facebook/sam2.1-hiera-{name}", license="Apache-2.0", commercial=True),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


_TINY = _config(96, 1, [1, 2, 7, 2], [5, 7, 9])
_SMALL = _config(96, 1, [1, 2, 11, 2], [7, 10, 13])
_BASE = _config(112, 2, [2, 3, 16, 3], [12, 16, 20], window_positional_embedding_background_size=[14, 14])
_LARGE = _config(144, 2, [2, 6, 36, 4], [23, 33, 43], window_size_per_stage=[8, 4, 16, 8])

SAM2 = ExpertSpec(
    api=1,
    name="sam2",
    summary="SAM 2.1 image encoder: feature pyramid at strides 16 and 8, 1024 pixels.",
    factory="tove_experts.adapters.transformers_segmentation:build_sam2",
    convert="tove_experts.adapters.transformers_segmentation:convert_sam2",
    input=bilinear(1024, 1024, IMAGENET),
    outputs={"features": Grid(channels=256, stride=16), "detail": Grid(channels=256, stride=8)},
    variants={
        "tiny": _size("tiny", _TINY, params=27_219_136, flops=291_067_395_072),
        "small": _size("small", _SMALL, params=34_316_992, flops=358_804_110_336),
        "base-plus": _size("base-plus", _BASE, params=69_106_816, flops=646_214_145_024),
        "large": _size("large", _LARGE, params=212_703_280, flops=1_823_358_320_640),
    },
    default="tiny",
    tiny={"config": _config(16, 1, [1, 1, 2, 1], [3]) | {"fpn_hidden_size": 32}},
    tiny_input=bilinear(64, 96, IMAGENET),
    homepage="https://github.com/facebookresearch/sam2",
    citation="arXiv:2408.00714",
)
