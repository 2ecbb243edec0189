"""DPT trained by MiDaS: relative depth from one image, the depth expert of ToVE's own hub.

Size as transformers' `DPTConfig` documents it for `Intel/dpt-large`; preprocessing as `DPTImageProcessor` declares it.
The smaller DPT-Hybrid is not offered: the main branch of its repository holds pickled weights alone.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Weights
from tove_experts.pixels import HALF


def _config(width: int, layers: int, heads: int, taken: list[int], neck: list[int], fusion: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "backbone_out_indices": taken,
        "neck_hidden_sizes": neck,
        "fusion_hidden_size": fusion,
    }


def _input(side: int) -> Input:
    # Its decoder takes the grid for a square: no other shape works.
    return Input(size=(side, side), patch=16, **HALF)


DPT = ExpertSpec(
    api=1,
    name="dpt",
    summary="DPT-Large (MiDaS 3.0): inverse depth at 384 pixels, and decoder features.",
    factory="tove_experts.adapters.transformers_depth:build_dpt",
    convert="tove_experts.adapters.transformers_depth:convert_dpt",
    input=_input(384),
    outputs={
        "depth": Grid(channels=1, stride=1, norm="fixed", fold=4),
        "features": Grid(channels=256, stride=8),
    },
    weights=Weights(
        repo="Intel/dpt-large",
        # A commit of the main branch that holds safetensors beside the pickle, as its page on the hub shows.
        revision="bc15f29aa3a80d532f2ed650b5e16ac48d8958f9",
        license="Apache-2.0",
        commercial=True,
    ),
    cost=Cost(params=343_030_465, flops=516_412_243_968),
    options={"config": _config(1024, 24, 16, [5, 11, 17, 23], [256, 512, 1024, 1024], 256)},
    tiny={"config": _config(32, 4, 2, [0, 1, 2, 3], [8, 16, 16, 32], 32)},
    tiny_input=_input(96),
    homepage="https://github.com/isl-org/DPT",
    citation="arXiv:2103.13413",
)
