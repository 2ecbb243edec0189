"""Tensors of which each process holds a part, as FSDP2 leaves them, and the whole ones that files hold."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes put together; every process must ask. Others come back as is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device of `like`, and cut into parts where `like` is; nothing is sent."""
    placed = value.to(like.device)
    if not isinstance(like, DTensor):
        return placed
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)
