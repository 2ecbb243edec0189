"""What the variants of a timm backbone have in common, written once. No torch: the spec files import it.

Figures in the spec files: repositories, licences, input sizes, means and standard deviations are those of timm's
`pretrained_cfg`, with which the tests compare them; parameters and multiply-adds are counted on the built architecture,
its classifier cut off, at the stated input.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, Grid, Input, Variant, Weights
from tove_experts.pixels import Statistics

BUILD = "tove_experts.adapters.timm_backbone:build"
CONVERT = "tove_experts.adapters.timm_backbone:convert"

DYNAMIC: dict[str, Any] = {"dynamic_img_size": True}
"""Argument of timm's transformers: positions are resampled where the input has another size than in training."""


def square(side: int, patch: int | None, statistics: Statistics) -> Input:
    """Return a square input of which other sizes work too; every timm model here is resampled bicubically."""
    return Input(size=(side, side), patch=patch, dynamic=True, **statistics)


def backbone(
    model: str,
    input: Input,
    *,
    channels: int,
    stride: int,
    params: int,
    flops: int | None = None,
    license: str = "Apache-2.0",
    license_url: str | None = None,
    commercial: bool | None = True,
) -> Variant:
    """Return the variant that is timm's `model`, with its tag.

    Args:
        model: architecture and tag as timm writes them, also the name of timm's repository on the hub.
        input: the pixels it wants.
        channels: width of the feature map.
        stride: pixels per position.
        params: parameters without the classifier.
        flops: of one image, multiply-adds counted as two.
        license: SPDX identifier, or LicenseRef-...
        license_url: where its text is.
        commercial: whether the licence allows commercial use, if known.
    """
    # Revisions and hashes were not known when this was written: the first download records both.
    weights = Weights(repo=f"timm/{model}", license=license, license_url=license_url, commercial=commercial)
    return Variant(
        input=input,
        outputs={"patches": Grid(channels=channels, stride=stride)},
        weights=weights,
        cost=Cost(params=params, flops=flops),
        options={"architecture": model},
    )
