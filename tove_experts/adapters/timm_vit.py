"""Vision transformers from timm as experts: patch features after the final norm, class and register tokens left out."""

from __future__ import annotations

from collections.abc import Mapping

import timm
from torch import Tensor, nn

from tove_core.spec import BuildContext


class TimmViT(nn.Module):
    """Pixels [B, 3, H, W] to `patches` [B, C, H / patch, W / patch]."""

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.trunk = timm.create_model(architecture, pretrained=False, num_classes=0)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the patch features."""
        (patches,) = self.trunk.forward_intermediates(  # type: ignore[operator]
            pixels, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return {"patches": patches}


def build(ctx: BuildContext) -> nn.Module:
    """Build the architecture named by option `architecture`."""
    return TimmViT(ctx.options["architecture"])


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's keys to the adapter's."""
    return {f"trunk.{name}": tensor for name, tensor in state.items()}
