"""Depth Anything V2: relative depth from one image, and the features it is read from.

Sizes as transformers' `convert_depth_anything_to_hf.py` sets them and `DepthAnythingConfig` documents; preprocessing as
that script hands it to `DPTImageProcessor`; licences as the model cards state them: free for the small size alone.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Variant, Weights
from tove_experts.pixels import IMAGENET


def _outputs(channels: int) -> dict[str, Grid]:
    return {
        "depth": Grid(channels=1, stride=1, norm="fixed", fold=4),
        "features": Grid(channels=channels, stride=7),
    }


def _config(width: int, layers: int, heads: int, taken: list[int], neck: list[int], fusion: int) -> dict[str, Any]:
    backbone = {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": 518,
        "patch_size": 14,
        "out_indices": taken,
        "apply_layernorm": True,
        "reshape_hidden_states": False,
    }
    return {
        "backbone_config": backbone,
        "reassemble_hidden_size": width,
        "patch_size": 14,
        "neck_hidden_sizes": neck,
        "fusion_hidden_size": fusion,
    }


def _size(name: str, config: dict[str, Any], license: str, params: int, flops: int) -> Variant:
    return Variant(
        outputs=dict(_outputs(config["fusion_hidden_size"])),
        # Revision and hash were not known when this was written: the first download records both.
        weights=Weights(
            repo=f"depth-anything/Depth-Anything-V2-{name}-hf", license=license, commercial=license == "Apache-2.0"
        ),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


_SMALL = _config(384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64)
_BASE = _config(768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128)
_LARGE = _config(1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256)

DEPTH_ANYTHING = ExpertSpec(
    api=1,
    name="depth-anything",
    summary="Depth Anything V2: inverse depth at 518 pixels, and decoder features.",
    factory="tove_experts.adapters.transformers_depth:build_depth_anything",
    convert="tove_experts.adapters.transformers_depth:convert_depth_anything",
    input=Input(size=(518, 518), patch=14, dynamic=True, **IMAGENET),
    outputs=dict(_outputs(64)),
    variants={
        "small": _size("Small", _SMALL, "Apache-2.0", params=24_785_089, flops=115_267_534_080),
        "base": _size("Base", _BASE, "CC-BY-NC-4.0", params=97_470_785, flops=380_700_643_584),
        "large": _size("Large", _LARGE, "CC-BY-NC-4.0", params=335_315_649, flops=1_304_217_118_976),
    },
    default="small",
    tiny={"config": _config(32, 4, 2, [1, 2, 3, 4], [8, 16, 16, 32], 32)},
    tiny_input=Input(size=(70, 56), patch=14, dynamic=True, **IMAGENET),
    homepage="https://github.com/DepthAnything/Depth-Anything-V2",
    citation="arXiv:2406.09414",
)
