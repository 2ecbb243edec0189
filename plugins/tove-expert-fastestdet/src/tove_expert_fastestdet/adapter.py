"""FastestDet as an expert: its best boxes, labels as text; torch is imported here and not in hooks.py.

How boxes are read from the network, the thresholds of 0.25 and 0.45, and blue-green-red pixels are those of
`utils/tool.py` and `test.py` of github.com/dog-qiuqiu/FastestDet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from tove_core import BuildContext, RegionBatch
from tove_core.spec import Regions
from tove_expert_fastestdet.labels import COCO
from tove_expert_fastestdet.network import FastestDet


class Detector(nn.Module):
    """Pixels [B, 3, H, W], red-green-blue in 0..1, to `objects`, best first."""

    def __init__(self, labels: Sequence[str], *, limit: int, threshold: float, overlap: float) -> None:
        """Build for at most `limit` regions.

        Args:
            labels: names of the classes.
            limit: most regions per image.
            threshold: scores up to it are dropped.
            overlap: of two boxes of one label whose intersection over union is above it, the worse is dropped.
        """
        super().__init__()
        self.network = FastestDet(len(labels))
        self.labels, self.limit, self.threshold, self.overlap = tuple(labels), limit, threshold, overlap

    def forward(self, pixels: Tensor) -> dict[str, RegionBatch]:
        """Return the objects found."""
        boxes, scores, labels = decode(self.network(pixels.flip(1)).float())
        found = RegionBatch(
            boxes=boxes.new_zeros(len(boxes), self.limit, 4),
            scores=scores.new_zeros(len(boxes), self.limit),
            valid=torch.zeros(len(boxes), self.limit, dtype=torch.bool, device=boxes.device),
            text=[[""] * self.limit for _ in range(len(boxes))],
        )
        for i in range(len(boxes)):
            sure = (scores[i] > self.threshold).nonzero()[:, 0]
            kept = sure[batched_nms(boxes[i, sure], scores[i, sure], labels[i, sure], self.overlap)][: self.limit]
            count = len(kept)
            found.boxes[i, :count], found.scores[i, :count] = boxes[i, kept].clamp(0, 1), scores[i, kept]
            found.valid[i, :count] = True
            found.text[i][:count] = [self.labels[k] for k in labels[i, kept].tolist()]  # type: ignore[index]
        return {"objects": found}


def decode(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read boxes from the network's output [B, 5 + L, h, w].

    Returns:
        Boxes [B, h * w, 4] as left, top, right, bottom in parts of the view, which they may exceed;
        scores [B, h * w], sureness of an object times that of its label; labels [B, h * w].
    """
    height, width = raw.shape[2:]
    rows = torch.arange(height, device=raw.device)[:, None]
    columns = torch.arange(width, device=raw.device)
    x, y = (raw[:, 1].tanh() + columns) / width, (raw[:, 2].tanh() + rows) / height
    half_width, half_height = raw[:, 3].sigmoid() / 2, raw[:, 4].sigmoid() / 2
    boxes = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
    sure, labels = raw[:, 5:].max(1)
    return boxes.flatten(1, 2), (raw[:, 0] * sure).flatten(1), labels.flatten(1)


def build(context: BuildContext) -> nn.Module:
    """Build the architecture; options `threshold` and `overlap` are those of `Detector`."""
    output = context.spec.outputs["objects"]
    limit = output.limit if isinstance(output, Regions) else 0
    return Detector(COCO, limit=limit, threshold=context.options["threshold"], overlap=context.options["overlap"])
