"""Segment Anything's image encoder as timm has it; torch is imported here and not in hooks.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from tove_core import BuildContext


class SamEncoder(nn.Module):
    """Pixels [B, 3, 1024, 1024] to `neck` [B, 256, 64, 64], what SAM's mask decoder reads."""

    def __init__(self, architecture: str, **arguments: Any) -> None:
        """Build timm's `architecture`, changed by `arguments`."""
        super().__init__()
        self.trunk = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the features after the neck."""
        return {"neck": self.trunk.forward_features(pixels)}  # type: ignore[operator]  # a VisionTransformerSAM


def build(context: BuildContext) -> nn.Module:
    """Build the architecture named by option `architecture`; the hub loads weights, places and freezes."""
    return SamEncoder(context.options["architecture"], **context.options.get("arguments", {}))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's keys to the adapter's."""
    return {f"trunk.{name}": tensor for name, tensor in state.items()}
