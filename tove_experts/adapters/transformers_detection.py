"""DETR and RT-DETRv2 of transformers as experts: their best boxes, labels as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

from tove_core import RegionBatch
from tove_core.spec import BuildContext, Regions
from tove_experts.adapters.ranking import best_regions

_RENAMED = (
    (r"\.conv_encoder\.", "."),
    (r"\.out_proj\.", ".o_proj."),
    (r"(layers\.\d+)\.fc([12])\.", r"\1.mlp.fc\2."),
    (r"\.encoder\.encoder\.(\d+)\.layers\.", r".encoder.aifi.\1.layers."),
)
"""Names in published files and what they are called since transformers 5."""

_TIED = re.compile(r"model\.decoder\.((?:class|bbox)_embed\..*)")


class Detector(nn.Module):
    """Pixels [B, 3, H, W] to `objects`."""

    def __init__(self, model: nn.Module, ctx: BuildContext, *, no_object: bool) -> None:
        super().__init__()
        self.model = model
        self.names: Sequence[str] = ctx.options["names"]
        self.threshold = float(ctx.options["threshold"])
        self.limit = _limit(ctx)
        self.no_object = no_object

    def forward(self, pixels: Tensor) -> dict[str, RegionBatch]:
        """Return the best boxes."""
        out: Any = self.model(pixel_values=pixels)
        logits = out.logits.float()
        # DETR chooses between its labels and none, the last; RT-DETR judges every label by itself.
        scores = logits.softmax(-1)[..., :-1] if self.no_object else logits.sigmoid()
        found = best_regions(
            out.pred_boxes,
            scores,
            self.names,
            limit=self.limit,
            threshold=self.threshold,
            one_label=self.no_object,
        )
        return {"objects": found}


def build_detr(ctx: BuildContext) -> nn.Module:
    """Build DETR; option `config` holds what deviates from `DetrConfig`, `names` the labels."""
    given: dict[str, Any] = {"num_labels": len(ctx.options["names"])} | dict(ctx.options["config"])
    config = DetrConfig(**given)
    return Detector(DetrForObjectDetection(config), ctx, no_object=True)


def build_rt_detr(ctx: BuildContext) -> nn.Module:
    """Build RT-DETRv2; option `config` holds what deviates from `RTDetrV2Config`, `names` the labels."""
    given: dict[str, Any] = {"num_labels": len(ctx.options["names"])} | dict(ctx.options["config"])
    stages = {"out_features": ["stage2", "stage3", "stage4"]}
    given["backbone_config"] = RTDetrResNetConfig(**stages, **given.get("backbone_config", {}))
    config = RTDetrV2Config(**given)
    return Detector(RTDetrV2ForObjectDetection(config), ctx, no_object=False)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename published keys to those of this transformers; give tensors that two names share under both."""
    converted = {}
    for key, tensor in state.items():
        for old, new in _RENAMED:
            key = re.sub(old, new, key)
        converted[f"model.{key}"] = tensor
        if shared := _TIED.fullmatch(key):
            converted.setdefault(f"model.{shared[1]}", tensor)
    return converted


def _limit(ctx: BuildContext) -> int:
    output = ctx.spec.outputs["objects"]
    return output.limit if isinstance(output, Regions) else 0
