"""Segmentation models from transformers as experts: how much of each class is where, and features without classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Mask2FormerConfig,
    Mask2FormerModel,
    Sam2VisionConfig,
    Sam2VisionModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from tove_core.spec import BuildContext
from tove_experts.adapters.transformers_models import PREFIX, configured, current_names, skeleton

POOL = 4
"""Features at a fourth of the input are averaged over 4 x 4: a vision token covers at least as much."""


class Segformer(nn.Module):
    """Pixels [B, 3, H, W] to `classes` [B, labels, H / 4, W / 4], probabilities, and `features` [B, C, H / 16, W / 16].

    The features are what the classifier reads.
    """

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__()
        self.model = SegformerForSemanticSegmentation(config)
        self.classifier = self.model.decode_head.classifier
        self.model.decode_head.classifier = nn.Identity()  # type: ignore[assignment]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return class probabilities and features."""
        stages = self.model.segformer(pixels, output_hidden_states=True).hidden_states
        fused = self.model.decode_head(stages)
        return {"classes": self.classifier(fused).softmax(dim=1), "features": F.avg_pool2d(fused, POOL)}


class Mask2Former(nn.Module):
    """Pixels [B, 3, H, W] to `classes` [B, labels, H / 4, W / 4] and `features` [B, C, H / 16, W / 16].

    Classes are the masks of all queries weighted by their class probabilities, from 0 upwards; features are the pixel
    decoder's, from which the masks are read.
    """

    # The library's own class with a classifier makes a loss too, which needs scipy: the classifier is added here.
    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        self.model = Mask2FormerModel(config)
        # The library makes this one parameter on the CPU whatever the device it builds on, such as meta.
        decoder = self.model.pixel_level_module.decoder
        decoder.level_embed = nn.Parameter(decoder.level_embed.data.to(torch.get_default_device()))
        # It also gives its backbone a last norm that nothing reads and that published files do not hold.
        backbone = getattr(self.model.pixel_level_module.encoder, "swin", None)
        if backbone is not None:
            backbone.layernorm = nn.Identity()
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)  # type: ignore[operator]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return class maps and features."""
        outputs = self.model(pixels, output_hidden_states=True)
        queries = outputs.transformer_decoder_intermediate_states[-1].transpose(0, 1)
        # The last class is "no object".
        classes = self.class_predictor(queries).softmax(dim=-1)[..., :-1]
        masks = outputs.masks_queries_logits[-1].sigmoid()
        features = F.avg_pool2d(outputs.pixel_decoder_last_hidden_state, POOL)
        return {"classes": torch.einsum("bqc,bqhw->bchw", classes, masks), "features": features}


class Sam2(nn.Module):
    """Pixels [B, 3, H, W] to `features` [B, C, H / 16, W / 16] and `detail` [B, C, H / 8, W / 8], of its pyramid."""

    def __init__(self, config: Sam2VisionConfig) -> None:
        super().__init__()
        self.model = Sam2VisionModel(config)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the pyramid's two coarser levels."""
        *_, detail, features = self.model(pixels).fpn_hidden_states
        return {"features": features, "detail": detail}


def build_segformer(ctx: BuildContext) -> nn.Module:
    """Build SegFormer; option `config` holds deviations from `SegformerConfig`."""
    return Segformer(configured(SegformerConfig, ctx.options))


def convert_segformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of a published SegFormer file those of the adapter."""
    named = current_names(state, skeleton(SegformerForSemanticSegmentation, SegformerConfig()))
    inside = f"{PREFIX}decode_head.classifier."
    return {
        f"classifier.{name.removeprefix(inside)}" if name.startswith(inside) else name: tensor
        for name, tensor in named.items()
    }


def build_mask2former(ctx: BuildContext) -> nn.Module:
    """Build Mask2Former; option `config` holds deviations from `Mask2FormerConfig`."""
    return Mask2Former(configured(Mask2FormerConfig, ctx.options))


def convert_mask2former(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of a published Mask2Former file those of the adapter; what its loss needs is left out."""
    # Files written before transformers 5 hold the index tables of Swin's windows, which the model computes.
    drop = (r"\.relative_position_index$", r"^pixel_level_module\.encoder\.(swin\.)?layernorm\.")
    named = current_names(state, skeleton(Mask2FormerModel, Mask2FormerConfig()), within="model.", drop=drop)
    return named | {name: tensor for name, tensor in state.items() if name.startswith("class_predictor.")}


def build_sam2(ctx: BuildContext) -> nn.Module:
    """Build the image encoder of SAM 2; option `config` holds deviations from `Sam2VisionConfig`."""
    return Sam2(configured(Sam2VisionConfig, ctx.options))


def convert_sam2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the image encoder out of a published SAM 2 file, which holds prompts, masks and memory too."""
    return current_names(state, skeleton(Sam2VisionModel, Sam2VisionConfig()), within="vision_encoder.")
