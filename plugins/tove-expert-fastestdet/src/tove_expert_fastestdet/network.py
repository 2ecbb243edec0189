"""FastestDet's network, written from the shapes of its published tensors and its published ONNX graph.

A ShuffleNetV2 (arXiv:1807.11164) gives maps at strides 8, 16 and 32; they meet at stride 16, where three depths of 5x5
convolutions widen the view, and three heads say whether an object is there, where its box lies, and what it is.
B images, H and W pixels (multiples of 32), L labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((24, 48, 4), (48, 96, 8), (96, 192, 4))
"""Channels into a stage, channels out of it, and how many blocks it has."""

WIDTH = 96
"""Channels after the three maps have met."""


def _conv(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, depthwise: bool = False, act: bool = True
) -> nn.Sequential:
    """Return a convolution without bias, its batch norm, and a ReLU where `act` is set."""
    groups = inputs if depthwise else 1
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


class Shuffle(nn.Module):
    """A block of ShuffleNetV2 that keeps its size: every other channel passes, the rest is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.main = nn.Sequential(
            _conv(half, half, 1), _conv(half, half, 3, depthwise=True, act=False), _conv(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, h, w] of [B, channels, h, w]."""
        return torch.cat([x[:, 0::2], self.main(x[:, 1::2])], 1)


class Halve(nn.Module):
    """The first block of a stage: both branches see every channel and halve the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.proj = nn.Sequential(_conv(inputs, inputs, 3, stride=2, depthwise=True, act=False), _conv(inputs, half, 1))
        self.main = nn.Sequential(
            _conv(inputs, half, 1), _conv(half, half, 3, stride=2, depthwise=True, act=False), _conv(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, h / 2, w / 2] of [B, inputs, h, w]."""
        return torch.cat([self.proj(x), self.main(x)], 1)


class Head(nn.Sequential):
    """A 5x5 depthwise convolution, then `outputs` numbers per position."""

    def __init__(self, outputs: int) -> None:
        super().__init__(_conv(WIDTH, WIDTH, 5, depthwise=True), _conv(WIDTH, outputs, 1, act=False))


class FastestDet(nn.Module):
    """Pixels [B, 3, H, W], blue-green-red in 0..1, to [B, 5 + L, H / 16, W / 16].

    Per position: how sure it is of an object (0..1), four numbers of its box, and a distribution over the labels.
    """

    def __init__(self, labels: int) -> None:
        """Build for `labels` L."""
        super().__init__()
        self.stem = _conv(3, STAGES[0][0], 3, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(Halve(inputs, outputs), *[Shuffle(outputs) for _ in range(blocks - 1)])
            for inputs, outputs, blocks in STAGES
        )
        self.reduce = _conv(sum(outputs for _, outputs, _ in STAGES), WIDTH, 1)
        self.pyramid = nn.ModuleList(
            nn.Sequential(*[_conv(WIDTH, WIDTH, 5, depthwise=True) for _ in range(depth)]) for depth in (1, 2, 3)
        )
        self.merge = _conv(3 * WIDTH, WIDTH, 1, act=False)
        self.neck = _conv(WIDTH, WIDTH, 1)
        self.objectness, self.box, self.label = Head(1), Head(4), Head(labels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return what each position says."""
        x = F.max_pool2d(self.stem(pixels), 3, 2, 1)
        fine, middle, coarse = [x := stage(x) for stage in self.stages]
        met = [F.avg_pool2d(fine, 3, 2, 1), middle, F.interpolate(coarse, scale_factor=2.0, mode="nearest")]
        x = self.reduce(torch.cat(met, 1))
        x = F.relu(x + self.merge(torch.cat([branch(x) for branch in self.pyramid], 1)))
        x = self.neck(x)
        return torch.cat([self.objectness(x).sigmoid(), self.box(x), self.label(x).softmax(1)], 1)
