"""Sobel's and Canny's edges as modules without parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tove_core.spec import BuildContext

GREY = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601."""


class Sobel(nn.Module):
    """Pixels [B, 3, H, W] in 0..1 to `edges` [B, 3, H, W]: m, m cos 2a, m sin 2a.

    m is the length of the gradient of the luma in units per pixel, a the angle of its direction. Doubled, opposite
    directions are one, so that both sides of a thin line agree and averaging over an area does not cancel them.
    """

    weight: Tensor
    grey: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        self.register_buffer("weight", torch.stack([across, across.T])[:, None], persistent=False)
        self.register_buffer("grey", torch.tensor(GREY)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return strength and direction of the edges."""
        luma = (pixels * self.grey).sum(1, keepdim=True)
        x, y = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="replicate"), self.weight).unbind(1)
        length = torch.hypot(x, y)
        # cos 2a = (x^2 - y^2) / m^2 and sin 2a = 2 x y / m^2, times m; where there is no edge all three are zero.
        safe = length.clamp(min=torch.finfo(length.dtype).tiny)
        return {"edges": torch.stack([length, (x + y) * (x - y) / safe, 2 * x * y / safe], 1)}


class Canny(nn.Module):
    """Pixels [B, 3, H, W] in 0..1 to `edges` [B, 2, H, W]: the gradient's length on its ridges, and edges 0 or 1."""

    def __init__(self, low: float, high: float) -> None:
        """Take the thresholds of weak and strong edges.

        Raises:
            ImportError: kornia is not installed.
        """
        super().__init__()
        try:
            from kornia.filters import Canny as Operator
        except ImportError as error:
            raise ImportError("edges:canny needs kornia; run pip install 'tove-core[classical]'") from error
        self.operator = Operator(low_threshold=low, high_threshold=high)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return thinned gradient and edges."""
        return {"edges": torch.cat(self.operator(pixels), 1)}


def build(ctx: BuildContext) -> nn.Module:
    """Build what option `method` names, `sobel` or `canny`."""
    if ctx.options["method"] == "canny":
        return Canny(ctx.options["low"], ctx.options["high"])
    return Sobel()
