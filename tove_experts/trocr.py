"""TrOCR's encoder: features for reading printed text.

It was trained on single lines of text stretched to a square; on a whole photo only large lettering is in its reach.
Sizes as transformers' `convert_trocr_unilm_to_pytorch.py` sets them; preprocessing as the `ViTImageProcessor` it makes;
licence that of microsoft/unilm, where the models come from (their cards state none).
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Variant, Weights
from tove_experts.pixels import HALF, bilinear


def _input(side: int) -> Input:
    return bilinear(side, side, HALF, patch=16, dynamic=False)


def _config(width: int, layers: int, heads: int, side: int = 384) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": side,
        "qkv_bias": False,
    }


def _size(name: str, config: dict[str, Any], params: int, flops: int, revision: str | None = None) -> Variant:
    return Variant(
        outputs={"patches": Grid(channels=config["hidden_size"], stride=16)},
        weights=Weights(
            repo=f"microsoft/trocr-{name}-printed",
            revision=revision,
            license="MIT",
            license_url="https://github.com/microsoft/unilm/blob/master/LICENSE",
            commercial=True,
        ),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


TROCR = ExpertSpec(
    api=1,
    name="trocr",
    summary="TrOCR encoder: patch features for printed text, 24x24 at 384 pixels.",
    factory="tove_experts.adapters.transformers_tokens:build_trocr",
    convert="tove_experts.adapters.transformers_tokens:convert_trocr",
    input=_input(384),
    outputs={"patches": Grid(channels=768, stride=16)},
    variants={
        "base": _size("base", _config(768, 12, 12), params=86_062_848, flops=110_967_164_928),
        "large": _size(
            "large",
            _config(1024, 24, 16),
            params=303_617_024,
            flops=382_130_552_832,
            revision="9ff792d8e7c22061f2ee67e1ed2246b1f9ef1e98",
        ),
    },
    default="base",
    tiny={"config": _config(32, 2, 2, side=48)},
    tiny_input=_input(48),
    homepage="https://github.com/microsoft/unilm/tree/master/trocr",
    citation="arXiv:2109.10282",
)
