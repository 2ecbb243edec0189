"""Monocular depth from transformers as experts: the depth map, and the decoder's features it is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DPTConfig,
    DPTForDepthEstimation,
)

from tove_core.spec import BuildContext
from tove_experts.adapters.transformers_models import configured, current_names, skeleton

POOL = 4
"""The decoder's last map has eight positions per patch and side; averaged over 4 x 4 of them, two remain."""


class DepthAnything(nn.Module):
    """Pixels [B, 3, H, W] to `depth` [B, 1, H, W] and `features` [B, C, 2 H / patch, 2 W / patch].

    Depth is relative and inverse: larger is nearer, without a unit.
    """

    def __init__(self, config: DepthAnythingConfig) -> None:
        super().__init__()
        self.model = DepthAnythingForDepthEstimation(config)
        self.patch: int = config.patch_size  # type: ignore[assignment]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return depth and features."""
        rows, columns = (side // self.patch for side in pixels.shape[-2:])
        stages = self.model.backbone.forward_with_filtered_kwargs(pixels).feature_maps
        maps = self.model.neck(stages, rows, columns)
        depth = self.model.head(maps, rows, columns)
        return {"depth": depth[:, None], "features": F.avg_pool2d(maps[-1], POOL)}


class DPT(nn.Module):
    """Pixels [B, 3, S, S] to `depth` [B, 1, S, S] and `features` [B, C, S / 8, S / 8]; square inputs only.

    Depth is relative and inverse: larger is nearer, without a unit.
    """

    def __init__(self, config: DPTConfig) -> None:
        super().__init__()
        self.model = DPTForDepthEstimation(config)
        self.stages: Sequence[int] = config.backbone_out_indices or ()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return depth and features."""
        states = self.model.dpt(pixels, output_hidden_states=True).hidden_states
        # The first hidden state is the embedding: the indices count layers.
        stages = [states[1 + layer] for layer in self.stages]
        maps = self.model.neck(stages)
        return {"depth": self.model.head(maps)[:, None], "features": F.avg_pool2d(maps[-1], POOL)}


def build_depth_anything(ctx: BuildContext) -> nn.Module:
    """Build Depth Anything; option `config` holds deviations from `DepthAnythingConfig`."""
    return DepthAnything(configured(DepthAnythingConfig, ctx.options))


def convert_depth_anything(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of a published Depth Anything file those of the adapter."""
    return current_names(state, skeleton(DepthAnythingForDepthEstimation, DepthAnythingConfig()))


def build_dpt(ctx: BuildContext) -> nn.Module:
    """Build DPT; option `config` holds deviations from `DPTConfig`."""
    return DPT(configured(DPTConfig, ctx.options))


def convert_dpt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of a published DPT file those of the adapter."""
    # `dpt.pooler` is in some files; depth is not read from it.
    return current_names(state, skeleton(DPTForDepthEstimation, DPTConfig()), drop=(r"^dpt\.pooler\.",))
