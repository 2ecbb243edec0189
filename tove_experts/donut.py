"""Donut's encoder: features for reading whole pages, receipts and screens without a text detector.

Size as transformers' `convert_donut_to_pytorch.py` sets it for `naver-clova-ix/donut-base`; preprocessing as
`DonutImageProcessor` declares it, but for its padding: here a view fills the input. Half the pixels per side of the
published 2560 x 1920 by default, which is what Donut's own models for receipts use; `full` takes all of them.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Variant, Weights
from tove_experts.pixels import HALF, bilinear


def _config(width: int, depths: list[int], heads: list[int], window: int, size: list[int]) -> dict[str, Any]:
    return {"embed_dim": width, "depths": depths, "num_heads": heads, "window_size": window, "image_size": size}


DONUT = ExpertSpec(
    api=1,
    name="donut",
    summary="Donut encoder: features for documents, 40x30 at 1280x960 pixels.",
    factory="tove_experts.adapters.transformers_tokens:build_donut",
    convert="tove_experts.adapters.transformers_tokens:convert_donut",
    input=bilinear(1280, 960, HALF),
    outputs={"patches": Grid(channels=1024, stride=32)},
    weights=Weights(
        repo="naver-clova-ix/donut-base",
        # Safetensors are in this commit of a pull request on the hub and not on the main branch.
        revision="f8ee532a72d4b2628114e9ece28908d2a6abee04",
        license="MIT",
        commercial=True,
    ),
    cost=Cost(params=74_180_728, flops=646_565_068_800),
    options={"config": _config(128, [2, 2, 14, 2], [4, 8, 16, 32], 10, [2560, 1920])},
    variants={
        "half": Variant(),
        "full": Variant(
            summary="Donut encoder: features for documents, 80x60 at 2560x1920 pixels.",
            input=bilinear(2560, 1920, HALF),
            cost=Cost(params=74_180_728, flops=2_586_260_275_200),
        ),
    },
    default="half",
    tiny={"config": _config(8, [1, 1, 1, 1], [1, 1, 2, 2], 2, [64, 96])},
    tiny_input=bilinear(64, 96, HALF),
    homepage="https://github.com/clovaai/donut",
    citation="arXiv:2111.15664",
)
