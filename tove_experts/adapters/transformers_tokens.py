"""Encoders from transformers that were trained to read text: their tokens are the feature."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers import DonutSwinConfig, DonutSwinModel, PreTrainedModel, ViTConfig, ViTModel

from tove_core.spec import BuildContext
from tove_experts.adapters.transformers_models import configured, current_names, skeleton


class Tokens(nn.Module):
    """Pixels [B, 3, H, W] to `patches` [B, C, H / stride, W / stride] of a model that gives tokens row by row.

    Tokens before the first patch (class, registers) are left out.
    """

    def __init__(self, model: PreTrainedModel, stride: int, prefix: int) -> None:
        super().__init__()
        self.model = model
        self.stride = stride
        self.prefix = prefix

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the tokens as a map."""
        tokens = self.model(pixels).last_hidden_state[:, self.prefix :]
        rows, columns = (side // self.stride for side in pixels.shape[-2:])
        return {"patches": tokens.transpose(1, 2).unflatten(2, (rows, columns))}


def build_trocr(ctx: BuildContext) -> nn.Module:
    """Build TrOCR's encoder; option `config` holds deviations from `ViTConfig`."""
    config = configured(ViTConfig, ctx.options)
    return Tokens(ViTModel(config, add_pooling_layer=False), stride=int(config.patch_size), prefix=1)  # type: ignore[arg-type]


def convert_trocr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the encoder out of a published TrOCR file; its pooler, where there is one, is not used."""
    return current_names(state, skeleton(ViTModel, ViTConfig()), within="encoder.", drop=(r"^pooler\.",))


def build_donut(ctx: BuildContext) -> nn.Module:
    """Build Donut's encoder; option `config` holds deviations from `DonutSwinConfig`."""
    config = configured(DonutSwinConfig, ctx.options)
    stride = int(config.patch_size) * 2 ** (len(config.depths) - 1)  # type: ignore[arg-type]
    return Tokens(DonutSwinModel(config, add_pooling_layer=False), stride=stride, prefix=0)


def convert_donut(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the encoder out of a published Donut file."""
    return current_names(state, skeleton(DonutSwinModel, DonutSwinConfig()), within="encoder.")
