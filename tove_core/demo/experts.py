"""The world's vision experts: small convolutional networks, each of which knows one thing that CLIP does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tove_core.demo.layout import SIZE
from tove_core.spec import BuildContext

STRIDE = 2
"""Pixels of the image per position of an expert's map."""

WIDTH = 32
DEPTH = 4

_GRID = SIZE // STRIDE


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        """Build a block of `width` channels whose first convolution has `dilation`."""
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what the block adds, [B, width, h, w]."""
        return torch.relu(x + self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))


class Mapper(nn.Module):
    """Maps an image to `channels` numbers at every other pixel, worked out at every fourth."""

    def __init__(self, channels: int) -> None:
        """Build a network that gives `channels` channels, before any squashing."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, WIDTH, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
        )
        self.body = nn.Sequential(*[Residual(WIDTH, dilation=1 + index % 2) for index in range(DEPTH)])
        self.head = nn.Conv2d(WIDTH, channels * STRIDE**2, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the map of `pixels` [B, 3, H, W], [B, channels, H / 2, W / 2]."""
        return nn.functional.pixel_shuffle(self.head(self.body(self.stem(pixels))), STRIDE)


class DepthExpert(nn.Module):
    """Gives the depth of what is seen: 0 at the camera, 1 the background; right only in the light it was trained in."""

    def __init__(self) -> None:
        """Build the architecture."""
        super().__init__()
        self.mapper = Mapper(1)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `depth` [B, 1, 24, 24]."""
        return {"depth": self.mapper(pixels).sigmoid()}


class CentreExpert(nn.Module):
    """Gives where objects have their centres: a heat map whose sum is about the number of objects."""

    def __init__(self) -> None:
        """Build the architecture."""
        super().__init__()
        self.mapper = Mapper(1)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `centre` [B, 1, 24, 24]."""
        return {"centre": 0.1 * nn.functional.softplus(self.mapper(pixels) - 3)}


class ContactExpert(nn.Module):
    """Gives the outlines of objects: the chance that one meets the background, and that one meets another object."""

    def __init__(self) -> None:
        """Build the architecture."""
        super().__init__()
        self.mapper = Mapper(3)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return scores of no outline, edge and contact, [B, 3, 24, 24]."""
        return self.mapper(pixels)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `contact` [B, 2, 24, 24]: the chance of an edge and of a contact."""
        return {"contact": self.logits(pixels).softmax(1)[:, 1:]}


class BlankExpert(nn.Module):
    """Gives one and the same map whatever the image: an expert that cannot contribute, to test what notices."""

    def __init__(self) -> None:
        """Build the architecture."""
        super().__init__()
        self.map = nn.Parameter(torch.zeros(1, _GRID, _GRID))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `blank` [B, 1, 24, 24]."""
        return {"blank": self.map.expand(len(pixels), -1, -1, -1)}


def build_depth(context: BuildContext) -> nn.Module:
    """Build the architecture of a depth expert."""
    return DepthExpert()


def build_centre(context: BuildContext) -> nn.Module:
    """Build the architecture of the centre expert."""
    return CentreExpert()


def build_contact(context: BuildContext) -> nn.Module:
    """Build the architecture of the contact expert."""
    return ContactExpert()


def build_blank(context: BuildContext) -> nn.Module:
    """Build the architecture of the blank expert."""
    return BlankExpert()
