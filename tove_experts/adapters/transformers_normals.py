"""Surface normals from transformers (TIPSv2 with a DPT head) as an expert."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from tove_core.spec import BuildContext
from tove_experts.adapters.transformers_models import configured, current_names, skeleton

try:
    from transformers import Tipsv2DptConfig, Tipsv2DptForNormalEstimation
except ImportError as error:
    raise ImportError("the installed transformers has no TIPSv2; install transformers>=5.14") from error


class Normals(nn.Module):
    """Pixels [B, 3, H, W] to `normals` [B, 3, H, W]: unit vectors x, y, z of the visible surfaces.

    Normalised, then resampled to the size of the input, as the library's own post-processing does it.
    """

    def __init__(self, config: Tipsv2DptConfig) -> None:
        super().__init__()
        self.model = Tipsv2DptForNormalEstimation(config)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the normals."""
        normals = F.normalize(self.model(pixels).normals, dim=1)
        return {"normals": F.interpolate(normals, size=pixels.shape[-2:], mode="bilinear", align_corners=False)}


def build(ctx: BuildContext) -> nn.Module:
    """Build TIPSv2 with its normals head; option `config` holds deviations from `Tipsv2DptConfig`."""
    return Normals(configured(Tipsv2DptConfig, ctx.options))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of a published TIPSv2-DPT file those of the adapter; its other two heads are left out."""
    return current_names(state, skeleton(Tipsv2DptForNormalEstimation, Tipsv2DptConfig()))
