"""OWLv2: an open-vocabulary detector, asked for a fixed list of names.

Sizes as the repositories' `config.json` give them (960 pixels, patches of 16; 1008 pixels, patches of 14);
preprocessing as `Owlv2ImageProcessor` declares it, but for its padding to a square: `view: pad` comes closest to it.
The names are an option, `queries`, and `prompt` is what is said of each: a spec of your own with other names is another
detector. FLOPs are counted by torch's FlopCounterMode, for the first image; the names are embedded only then (a tenth).
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Input, Regions, Variant, Weights
from tove_experts.coco import COCO_80
from tove_experts.pixels import CLIP, bilinear

_BASE: dict[str, Any] = {"vision_config": {"image_size": 960}}
_LARGE: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 1008,
        "patch_size": 14,
    },
}


def _input(side: int, patch: int) -> Input:
    return bilinear(side, side, CLIP, patch=patch, dynamic=False)


def _variant(name: str, config: dict[str, Any], input: Input, params: int, flops: int) -> Variant:
    # Revision and hash were not known when this was written: the first download records both.
    return Variant(
        input=input,
        weights=Weights(repo=f"google/owlv2-{name}-ensemble", license="Apache-2.0", commercial=True),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


OWLV2 = ExpertSpec(
    api=1,
    name="owlv2",
    summary="OWLv2: boxes of whatever is named in advance (COCO's 80 names), labels as text.",
    factory="tove_experts.adapters.owlv2:build",
    convert="tove_experts.adapters.owlv2:convert",
    input=_input(960, 16),
    outputs={"objects": Regions(limit=100, text=True)},
    options={"queries": COCO_80, "prompt": "a photo of a {}", "threshold": 0.1},
    variants={
        "base": _variant("base-patch16", _BASE, _input(960, 16), 154_966_792, 1_202_803_757_056),
        "large": _variant("large-patch14", _LARGE, _input(1008, 14), 437_610_760, 6_029_584_465_920),
    },
    default="base",
    tiny={
        "config": {
            "projection_dim": 12,
            "text_config": {
                "hidden_size": 12,
                "intermediate_size": 8,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 8,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 48,
                "patch_size": 8,
            },
        }
    },
    tiny_input=_input(48, 8),
    homepage="https://github.com/google-research/scenic/tree/main/scenic/projects/owl_vit",
    citation="arXiv:2306.09683",
)
