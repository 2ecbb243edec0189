"""Mask2Former trained on COCO panoptic: 133 kinds of things and stuff, and the pixel decoder's features.

Sizes as transformers' `convert_mask2former_original_pytorch_checkpoint_to_pytorch.py` and Mask2Former's own
configuration files give them; size and preprocessing as the `preprocessor_config.json` of the repositories does;
licence as Mask2Former's MODEL_ZOO.md states it for its models (the code is MIT).
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Variant, Weights
from tove_experts.pixels import IMAGENET, bilinear

_LABELS = 133


def _config(width: int, depths: list[int], heads: list[int], window: int, queries: int = 100) -> dict[str, Any]:
    backbone = {
        "model_type": "swin",
        "embed_dim": width,
        "depths": depths,
        "num_heads": heads,
        "window_size": window,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return {"backbone_config": backbone, "num_labels": _LABELS, "num_queries": queries}


def _size(name: str, config: dict[str, Any], params: int, flops: int, revision: str | None = None) -> Variant:
    return Variant(
        weights=Weights(
            repo=f"facebook/mask2former-swin-{name}-coco-panoptic",
            revision=revision,
            license="CC-BY-NC-4.0",
            license_url="https://github.com/facebookresearch/Mask2Former/blob/main/MODEL_ZOO.md",
            commercial=False,
        ),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


MASK2FORMER = ExpertSpec(
    api=1,
    name="mask2former",
    summary="Mask2Former on COCO: 133 class maps at stride 4, and mask features.",
    factory="tove_experts.adapters.transformers_segmentation:build_mask2former",
    convert="tove_experts.adapters.transformers_segmentation:convert_mask2former",
    input=bilinear(384, 384, IMAGENET),
    outputs={
        "classes": Grid(channels=_LABELS, stride=4, norm="none", fold=2),
        "features": Grid(channels=256, stride=16),
    },
    variants={
        "tiny": _size("tiny", _config(96, [2, 2, 6, 2], [3, 6, 12, 24], 7), params=47_435_264, flops=79_342_297_600),
        "small": _size(
            "small", _config(96, [2, 2, 18, 2], [3, 6, 12, 24], 7), params=68_753_168, flops=107_455_963_648
        ),
        "base": _size(
            "base", _config(128, [2, 2, 18, 2], [4, 8, 16, 32], 12), params=106_917_822, flops=145_191_768_064
        ),
        # Safetensors are in this commit of a pull request on the hub and not on the main branch.
        "large": _size(
            "large",
            _config(192, [2, 2, 18, 2], [6, 12, 24, 48], 12, queries=200),
            params=215_535_610,
            flops=268_593_373_184,
            revision="a4edee47b1b2662241ceed627430aa22d0647bd0",
        ),
    },
    default="tiny",
    tiny={
        "config": _config(8, [1, 1, 1, 1], [1, 1, 2, 2], 2, queries=5)
        | {
            "num_labels": 5,
            "hidden_dim": 32,
            "feature_size": 32,
            "mask_feature_size": 32,
            "encoder_feedforward_dim": 32,
            "dim_feedforward": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 2,
        }
    },
    tiny_input=bilinear(64, 96, IMAGENET),
    homepage="https://github.com/facebookresearch/Mask2Former",
    citation="arXiv:2112.01527",
)
