"""Backbones of timm as experts: the last dense feature map, class and register tokens and heads left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from tove_core.spec import BuildContext


class TimmBackbone(nn.Module):
    """Pixels [B, 3, H, W] to `patches` [B, C, H / stride, W / stride], after the backbone's own last norm.

    Pooling and classifiers are built and cut off, so that a published checkpoint loads although it holds them: their
    tensors, and no others, are left out when a state is loaded.
    """

    def __init__(self, architecture: str, arguments: Mapping[str, Any], norm: bool = True) -> None:
        """Build `timm.create_model(architecture, **arguments)` with random weights.

        Args:
            architecture: timm's name, with or without a tag.
            arguments: what else `create_model` is given.
            norm: whether features pass the last norm; a few backbones have none that fits.
        """
        super().__init__()
        if not timm.is_model(architecture):
            raise ImportError(
                f"timm {timm.__version__} has no model {architecture!r}; run 'pip install --upgrade timm'"
            )
        trunk = timm.create_model(architecture, pretrained=False, **arguments)
        whole = set(trunk.state_dict())
        trunk.prune_intermediate_layers(indices=1, prune_norm=False, prune_head=True)  # type: ignore[operator]
        self.trunk = trunk
        self.norm = norm
        self._cut_off = frozenset(f"trunk.{name}" for name in whole - trunk.state_dict().keys())
        self.register_load_state_dict_pre_hook(_leave_out)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the features of the last block or stage."""
        (patches,) = self.trunk.forward_intermediates(  # type: ignore[operator]
            pixels, indices=1, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        return {"patches": patches}


def _leave_out(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name in module._cut_off:  # type: ignore[union-attr]
        state.pop(f"{prefix}{name}", None)


def build(ctx: BuildContext) -> nn.Module:
    """Build the timm model named by option `architecture` with options `arguments` and `norm`."""
    options = ctx.options
    return TimmBackbone(options["architecture"], options.get("arguments", {}), options.get("norm", True))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's keys to the adapter's."""
    return {f"trunk.{name}": tensor for name, tensor in state.items()}
