"""What both mixing operators need of PyTorch: their backend while a program is traced, and no second derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tove_kernels.choice import choose


@torch.compiler.assume_constant_result
def backend(device: str) -> str:
    """Return "reference" or "triton" for tensors on a type of device; see `tove_kernels.choice.choose`."""
    return choose(device).backend


def differentiable_once(gradients: Sequence[Tensor], *inputs: Tensor | None) -> tuple[Tensor, ...]:
    """Return gradients tied to what they were computed from, so that differentiating them again raises an error.

    Operators carry no derivative: without this a second derivative through them would be left out in silence.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)  # a backward that is not recorded: nothing can be differentiated again
    return _Once.apply(len(gradients), *gradients, *inputs)  # type: ignore[return-value]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(count: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(one.view_as(one) for one in tensors[:count] if one is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            "a second derivative was asked for through a Triton kernel, which has only a first; "
            "set TOVE_KERNELS=reference for it"
        )
