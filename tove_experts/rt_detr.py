"""RT-DETRv2: a fast detector of COCO's 80 categories.

Architectures as transformers' `RTDetrV2Config` has them, with the deviations by name that its
`convert_rt_detr_v2_weights_to_hf.py` sets; preprocessing as `RTDetrImageProcessor` declares it (it squashes too). Sizes
and FLOPs (counted by torch's FlopCounterMode, for one image) are those of the project's own table within rounding.
Labels carry COCO's names; the repositories' configurations call some otherwise.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Input, Regions, Variant, Weights
from tove_experts.coco import COCO_80


def _basic(depths: list[int], layers: int) -> dict[str, Any]:
    return {
        "backbone_config": {"hidden_sizes": [64, 128, 256, 512], "depths": depths, "layer_type": "basic"},
        "encoder_in_channels": [128, 256, 512],
        "hidden_expansion": 0.5,
        "decoder_layers": layers,
    }


_R101: dict[str, Any] = {
    "backbone_config": {"depths": [3, 4, 23, 3]},
    "encoder_ffn_dim": 2048,
    "encoder_hidden_dim": 384,
    "decoder_in_channels": [384, 384, 384],
}


def _variant(name: str, config: dict[str, Any], params: int, flops: int) -> Variant:
    # Revision and hash were not known when this was written: the first download records both.
    return Variant(
        weights=Weights(repo=f"PekingU/rtdetr_v2_{name}vd", license="Apache-2.0", commercial=True),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


RT_DETR = ExpertSpec(
    api=1,
    name="rt-detr",
    summary="RT-DETRv2: boxes of COCO's 80 categories, labels as text; fast.",
    factory="tove_experts.adapters.transformers_detection:build_rt_detr",
    convert="tove_experts.adapters.transformers_detection:convert",
    input=Input(size=(640, 640), patch=32, interpolation="bilinear", dynamic=True),
    outputs={"objects": Regions(limit=100, text=True)},
    options={"names": COCO_80, "threshold": 0.3},
    variants={
        "r18": _variant("r18", _basic([2, 2, 2, 2], 3), 20_174_608, 61_512_294_400),
        "r34": _variant("r34", _basic([3, 4, 6, 3], 4), 31_424_388, 93_631_283_200),
        "r50": _variant("r50", {}, 42_891_372, 137_841_459_200),
        "r101": _variant("r101", _R101, 76_556_268, 260_632_985_600),
    },
    default="r50",
    tiny={
        "config": {
            "backbone_config": {
                "embedding_size": 8,
                "hidden_sizes": [8, 12, 16, 20],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
            },
            "d_model": 16,
            "encoder_hidden_dim": 16,
            "encoder_in_channels": [12, 16, 20],
            "decoder_in_channels": [16, 16, 16],
            "encoder_ffn_dim": 8,
            "decoder_ffn_dim": 8,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "decoder_layers": 2,
            "num_queries": 9,
        },
        # Random weights are never sure of anything.
        "threshold": 0.0,
    },
    tiny_input=Input(size=(64, 96), patch=32, interpolation="bilinear", dynamic=True),
    homepage="https://github.com/lyuwenyu/RT-DETR",
    citation="arXiv:2407.17140",
)
