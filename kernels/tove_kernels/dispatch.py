"""What the operators need of PyTorch: their backend while a program is traced, and no second derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from tove_kernels.choice import Backend, choose

P = ParamSpec("P")
R = TypeVar("R")


@torch.compiler.assume_constant_result
def backend(device: str) -> Backend:
    """Return the form for tensors on a type of device; see `tove_kernels.choice.choose`."""
    return choose(device).backend


def plain(form: Callable[P, R], chosen: Backend) -> Callable[P, R]:
    """Return a plain PyTorch form as it is or, where that is chosen, compiled.

    While a program is traced it is returned as it is: it becomes part of what is compiled.
    """
    return _compiled(form) if chosen == "compiled" and not torch.compiler.is_compiling() else form


@cache
def _compiled(form: Callable[P, R]) -> Callable[P, R]:
    return torch.compile(form)


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
