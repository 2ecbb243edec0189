"""SegFormer trained on ADE20K: how much of each of 150 classes is where, and the features the classifier reads.

Sizes as transformers' `convert_segformer_original_to_pytorch.py` sets them; preprocessing as `SegformerImageProcessor`
declares it. NVIDIA's licence allows research and evaluation, no commercial use. B3, B4 and the Cityscapes models are
not offered: no commit of their repositories was known to hold safetensors.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Variant, Weights
from tove_experts.pixels import IMAGENET, bilinear

_LABELS = 150


def _outputs(channels: int) -> dict[str, Grid]:
    return {
        # Probabilities: what is averaged over a token is the share of each class in it.
        "classes": Grid(channels=_LABELS, stride=4, norm="none", fold=2),
        "features": Grid(channels=channels, stride=16),
    }


def _config(depths: list[int], widths: list[int], decoder: int, labels: int = _LABELS) -> dict[str, Any]:
    return {"depths": depths, "hidden_sizes": widths, "decoder_hidden_size": decoder, "num_labels": labels}


def _size(
    name: str, config: dict[str, Any], params: int, flops: int, side: int = 512, revision: str | None = None
) -> Variant:
    return Variant(
        input=bilinear(side, side, IMAGENET),
        outputs=dict(_outputs(config["decoder_hidden_size"])),
        weights=Weights(
            repo=f"nvidia/segformer-{name}-finetuned-ade-{side}-{side}",
            revision=revision,
            license="LicenseRef-NVIDIA-SegFormer",
            license_url="https://github.com/NVlabs/SegFormer/blob/master/LICENSE",
            commercial=False,
        ),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


_WIDE = [64, 128, 320, 512]
_B0 = _config([2, 2, 2, 2], [32, 64, 160, 256], 256)
_B1 = _config([2, 2, 2, 2], _WIDE, 256)
_B2 = _config([3, 4, 6, 3], _WIDE, 768)
_B5 = _config([3, 6, 40, 3], _WIDE, 768)

SEGFORMER = ExpertSpec(
    api=1,
    name="segformer",
    summary="SegFormer on ADE20K: 150 class maps at stride 4, and decoder features.",
    factory="tove_experts.adapters.transformers_segmentation:build_segformer",
    convert="tove_experts.adapters.transformers_segmentation:convert_segformer",
    input=bilinear(512, 512, IMAGENET),
    outputs=dict(_outputs(256)),
    # Where a revision is given, safetensors are in that commit of a pull request on the hub and not on the main branch.
    variants={
        "b0": _size("b0", _B0, params=3_752_694, flops=16_775_643_136),
        "b1": _size(
            "b1", _B1, params=13_715_798, flops=31_756_124_160, revision="8b74291cb371abe2a2860015ded13f5b2fa6dff5"
        ),
        "b2": _size(
            "b2", _B2, params=27_461_974, flops=124_675_686_400, revision="4585665b1bf59b90b831d5145d3e25d6e0743d03"
        ),
        "b5": _size(
            "b5",
            _B5,
            params=84_708_694,
            flops=366_282_342_400,
            side=640,
            revision="f4c8e8f5b581b6bc8ed5208e4bd139d95f65610f",
        ),
    },
    default="b0",
    tiny={"config": _config([1, 1, 1, 1], [8, 16, 40, 64], 32, labels=5)},
    tiny_input=bilinear(64, 96, IMAGENET),
    homepage="https://github.com/NVlabs/SegFormer",
    citation="arXiv:2105.15203",
)
