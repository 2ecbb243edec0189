"""Test images, normalised as an expert wants them: the same on every machine, none like another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_core.hub.view import resample
from tove_core.spec import Input


def pixels(input: Input, count: int, seed: int = 0) -> Tensor:
    """Return `count` images [count, 3, H, W] of soft blobs with some grain."""
    draw = torch.Generator().manual_seed(seed)
    blobs = torch.rand(count, 3, 5, 7, generator=draw)
    blobs = F.interpolate(blobs, size=input.size, mode="bilinear", align_corners=False)
    grain = torch.rand(count, 3, *input.size, generator=draw)
    return normalised(0.8 * blobs + 0.2 * grain, input)


def plain(input: Input, levels: tuple[float, ...]) -> Tensor:
    """Return one even image per level of grey in 0..1, [len(levels), 3, H, W]."""
    return normalised(torch.stack([torch.full((3, *input.size), level) for level in levels]), input)


def normalised(images: Tensor, input: Input) -> Tensor:
    """Return images [B, 3, H, W] in 0..1 with the expert's mean, std and range, as the hub hands them over."""
    return torch.stack([resample(image, "squash", input) for image in images])
