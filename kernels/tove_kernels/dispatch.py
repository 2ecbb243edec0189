"""The backend of a call, in a form that torch.compile and torch.export take as a constant while they trace."""

from __future__ import annotations

import torch

from tove_kernels.choice import choose


@torch.compiler.assume_constant_result
def backend(device: str) -> str:
    """Return "reference" or "triton" for tensors on a type of device; see `tove_kernels.choice.choose`."""
    return choose(device).backend
