"""Tells which activation a built tower computes, by evaluating it: flags in configuration files are often wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "other"]
"""gelu: x·Φ(x) (erf); gelu_tanh: its tanh approximation; quick_gelu: x·sigmoid(1.702x), as OpenAI's CLIP."""


def quick_gelu(x: Tensor) -> Tensor:
    """Return x·sigmoid(1.702x), elementwise."""
    return x * torch.sigmoid(1.702 * x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


_KNOWN: tuple[tuple[Activation, Callable[[Tensor], Tensor]], ...] = (
    ("gelu", functional.gelu),
    ("gelu_tanh", _gelu_tanh),
    ("quick_gelu", quick_gelu),
)
# The closest two, gelu and its tanh form, differ by 4.7e-4 on this interval; rounding by 1e-6.
_TOLERANCE = 1e-5


def activation_of(modules: Iterable[nn.Module]) -> Activation:
    """Return the activation that all of `modules` compute; "other" if it has no name here or they differ."""
    points = torch.linspace(-4, 4, 65, device="cpu")  # said, so that a tower can be built on meta to be counted
    found: set[Activation] = set()
    with torch.no_grad():
        for module in modules:
            values = module(points.clone())
            names: list[Activation] = [name for name, f in _KNOWN if _equal(values, f(points))]
            found.add(names[0] if names else "other")
    return found.pop() if len(found) == 1 else "other"


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and (left - right).abs().max().item() < _TOLERANCE
