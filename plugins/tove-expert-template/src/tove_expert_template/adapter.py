"""The expert's module; torch is imported here and not in hooks.py."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core import BuildContext


class ColourStatistics(nn.Module):
    """Mean and standard deviation of each colour, cell by cell."""

    def __init__(self, cell: int) -> None:
        """Build for square cells of `cell` pixels."""
        super().__init__()
        self.cell = cell

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `statistics` [B, 6, H / cell, W / cell] of pixels [B, 3, H, W]."""
        mean = F.avg_pool2d(pixels, self.cell)
        square = F.avg_pool2d(pixels.square(), self.cell)
        spread = (square - mean.square()).clamp(min=0).sqrt()
        return {"statistics": torch.cat([mean, spread], dim=1)}


def build(context: BuildContext) -> nn.Module:
    """Build the architecture from the options of the spec; the hub loads weights, places and freezes."""
    return ColourStatistics(context.options["cell"])
