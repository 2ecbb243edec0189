"""What is measured: one operator at one shape, with the forms that compute it and the bytes it has to move."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps

import torch
from torch import Tensor
from tove_kernels.choice import VARIABLE


@dataclass(frozen=True)
class Problem:
    """One set of inputs: tensors whose gradients are wanted, others, and the gradient of the result."""

    leaves: list[Tensor]
    fixed: list[Tensor]
    grad: Tensor

    @property
    def bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(t.numel() * t.element_size() for t in (*self.leaves, *self.fixed, self.grad))


Compute = Callable[[list[Tensor], list[Tensor]], Tensor]


@dataclass(frozen=True)
class Form:
    """One way to compute the operator.

    Args:
        compute: from leaves and fixed tensors to the result.
        strict: whether its error must be that of one rounding; others may round at every step.
        exact: what it computes, in float64, where that is not what the workload computes.
        graphs: whether it is measured under CUDA graphs too.
    """

    compute: Compute
    strict: bool = False
    exact: Compute | None = None
    graphs: bool = True


@dataclass(frozen=True)
class Workload:
    """An operator at a shape.

    Args:
        operator, shape: names in the table.
        dtype: of the main tensors.
        make: a set of inputs from a seed, on a device.
        exact: the result from float64 inputs, differentiable where there are leaves.
        bytes: what each direction has to move if everything is read and written once.
        forms: by name; `baseline` is the one that speed-ups are over.
        absent: forms that could have been measured were they installed, and why they are not.
        small: whether launches cost as much as the work, so that CUDA graphs are measured too.
    """

    operator: str
    shape: str
    dtype: torch.dtype
    make: Callable[[int, torch.device], Problem]
    exact: Compute
    bytes: Mapping[str, int]
    forms: Mapping[str, Form]
    baseline: str
    absent: Mapping[str, str] = field(default_factory=dict)
    small: bool = False

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"{self.operator} {self.shape}"


TOVE, TOVE_COMPILED = "tove", f"tove, {VARIABLE}=compiled"


def own_forms(compute: Compute, device: torch.device) -> dict[str, Form]:
    """Return tove's own forms: what `auto` takes and, on a CPU, the plain form compiled."""
    forms = {TOVE: Form(compute, strict=True)}
    if device.type == "cpu":
        forms[TOVE_COMPILED] = Form(_with_choice(compute, "compiled"), strict=True)
    return forms


def _with_choice(compute: Compute, wish: str) -> Compute:
    @wraps(compute)
    def call(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = wish
        try:
            return compute(leaves, fixed)
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before

    return call
