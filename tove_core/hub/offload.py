"""Weights that lie in main memory and are on the device only while their module runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def pin(module: nn.Module) -> None:
    """Put a module's tensors into page-locked main memory, from which a GPU copies without waiting for the CPU."""
    for tensor in _tensors(module):
        tensor.data = tensor.data.cpu().pin_memory()


@contextmanager
def brought_to(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Copy a module's parameters and buffers to a device for a block, then take up the originals again.

    What lies in main memory is never written, so nothing is copied back: the same bits are brought next time. On a
    GPU copies go into the current stream, so whoever runs the module there needs no waiting.
    """
    tensors = _tensors(module)
    home = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device, non_blocking=True, copy=True)
        yield
    finally:
        for tensor, kept in zip(tensors, home, strict=True):
            tensor.data = kept


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
