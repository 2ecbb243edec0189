"""Weights that lie in main memory and are on the device only while their module runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn


def pin(module: nn.Module) -> None:
    """Put a module's tensors into page-locked main memory, from which a GPU copies without waiting for the CPU."""
    for tensor in _tensors(module):
        tensor.data = tensor.data.cpu().pin_memory()


@contextmanager
def brought_to(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Copy a module's parameters and buffers to a device for a block, then take up the originals again.

    What lies in main memory is never written, so nothing is copied back: the same bits are brought next time. Threads
    that run the module at the same time share one copy, which is let go of when the last of them is done; one that
    wants it on another device waits until then. On a GPU copies go into the current stream, and the current streams of
    those who share them wait for them, so whoever runs the module there needs no waiting.
    """
    stay = _stay_of(module)
    stay.enter(module, device)
    try:
        yield
    finally:
        stay.leave()


class _Stay:
    """A module's time on a device, shared by all who run it meanwhile."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._home: list[torch.Tensor] = []
        self._users = 0
        self._device: torch.device | None = None
        self._copied: torch.cuda.Event | None = None
        self._changed = threading.Condition()

    def enter(self, module: nn.Module, device: torch.device) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._users or self._device == device)
            if not self._users:
                self._bring(module, device)
            elif self._copied is not None:
                stream = torch.cuda.current_stream(device)
                stream.wait_event(self._copied)
                for tensor in self._tensors:
                    tensor.data.record_stream(stream)
            self._users += 1

    def leave(self) -> None:
        with self._changed:
            self._users -= 1
            if not self._users:
                self._restore()
                self._changed.notify_all()

    def _bring(self, module: nn.Module, device: torch.device) -> None:
        self._tensors, self._device = _tensors(module), device
        self._home = [tensor.data for tensor in self._tensors]
        try:
            for tensor in self._tensors:
                tensor.data = tensor.data.to(device, non_blocking=True, copy=True)
            if device.type == "cuda":
                self._copied = torch.cuda.Event()
                self._copied.record(torch.cuda.current_stream(device))
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        for tensor, kept in zip(self._tensors, self._home, strict=True):
            tensor.data = kept
        self._tensors, self._home, self._device, self._copied = [], [], None, None


_STAYS: WeakKeyDictionary[nn.Module, _Stay] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _stay_of(module: nn.Module) -> _Stay:
    with _LOCK:
        return _STAYS.setdefault(module, _Stay())


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
