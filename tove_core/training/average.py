"""A moving average of the trained parameters, which often generalises better than the last of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def begun(parameter: Tensor) -> Tensor:
    """Return what an average begins with: the parameter, float32 at least."""
    value = parameter.detach()
    return (value.float() if value.dtype.itemsize < 4 else value).clone()


class MovingAverage:
    """Exponential moving average, which follows closely at first: after t updates its decay is (1 + t) / (10 + t).

    Args:
        module: its trainable parameters are followed.
        decay: the decay in the long run, between 0 and 1.

    Attributes:
        values: the averages by name, float32 at least.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.values: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self.values[name] = begun(parameter)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after `step` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.module.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.to(self.values[name].dtype), 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Let the parameters be the averages."""
        for name, parameter in self.module.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])
