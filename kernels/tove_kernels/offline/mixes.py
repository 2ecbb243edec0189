"""The launches of the two mixing operators that are compiled offline, forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tove_kernels.offline.case import BF16, Case


def mix_cases() -> list[Case]:
    """Return cases over widths, numbers of experts and masks; D=1024 with 4 experts is the reference shape."""
    shapes = [(1024, 4), (768, 1), (768, 4), (1152, 4), (1408, 8)]
    found = [case for width, experts in shapes for case in (_residual(width, experts), _activation(width, experts))]
    return [*found, _residual(1024, 4, masked=True), _activation(1024, 4, masked=True)]


def _drawn(width: int, experts: int, masked: bool) -> tuple[list[Tensor], Tensor, Tensor | None]:
    tensors = [torch.empty(64, 577, width, dtype=BF16, device="meta") for _ in range(experts + 1)]
    logits = torch.empty(64, 577, experts + 1, device="meta")  # float32, and one entry that carries no expert
    return tensors, logits, torch.empty(64, 577, experts, dtype=torch.bool, device="meta") if masked else None


def _tile(constants: Mapping[str, Any]) -> int:
    return constants["ROWS"] * constants["COLUMNS"]


def _label(operator: str, width: int, experts: int, masked: bool) -> str:
    return f"{operator}, D={width}, K={experts}" + (", mask per token" if masked else "")


def _residual(width: int, experts: int, masked: bool = False) -> Case:
    (tokens, *each), logits, mask = _drawn(width, experts, masked)

    def launch() -> None:
        from tove_kernels.residual_mix import triton_launch

        triton_launch.forward(tokens, each, logits, mask, "zero", "softmax", 0)
        triton_launch.backward(tokens, each, logits, mask, "zero", "softmax", 0, (True, True))

    vectors = {
        "forward": lambda given: ((experts + 1) * _tile(given), _tile(given)),
        "backward": lambda given: ((experts + 1) * _tile(given), experts * _tile(given)),
    }
    return Case(_label("gated_mix", width, experts, masked), launch, vectors)


def _activation(width: int, experts: int, masked: bool = False) -> Case:
    (grad, *hidden), logits, mask = _drawn(width, experts, masked)
    bias = [torch.empty(width, device="meta") for _ in range(experts)]

    def launch() -> None:
        from tove_kernels.activation_mix import triton_launch

        _, weights = triton_launch.forward(hidden, bias, logits, mask, "zero", "softmax")
        wanted = (True, True, True)
        triton_launch.backward(grad, None, weights, hidden, bias, logits, mask, "zero", "softmax", wanted)

    vectors = {
        "forward": lambda given: (experts * _tile(given), _tile(given)),
        "backward": lambda given: ((experts + 1) * _tile(given), experts * _tile(given)),
    }
    return Case(_label("gated_activation_mix", width, experts, masked), launch, vectors)
