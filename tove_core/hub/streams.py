"""Runs experts beside each other on CUDA streams of their own; everything else one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def run_beside(tasks: Mapping[str, Callable[[], Tensor]], devices: Mapping[str, torch.device]) -> dict[str, Tensor]:
    """Run tasks and return their results in the order of `tasks`.

    Args:
        tasks: by key; each gives a tensor, on any device.
        devices: the keys whose task gets a stream of its own, with its device. Those are put under way before all
            others. Devices that are not CUDA have no streams: their tasks run in turn.

    The results can be used in the current streams; tensors that tasks read must stay alive until this returns.
    """
    beside = {key: device for key, device in devices.items() if device.type == "cuda"}
    slots: dict[torch.device, int] = {}
    streams: dict[str, Any] = {}
    results: dict[str, Tensor] = {}
    try:
        for key, device in beside.items():
            slot = slots[device] = slots.get(device, -1) + 1
            stream = streams[key] = _stream(device, slot)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                results[key] = tasks[key]()
        for key, task in tasks.items():
            if key not in beside:
                results[key] = task()
    finally:
        # After an error too: what the caller lets go of then may still be read on a stream beside its own.
        for key, stream in streams.items():
            torch.cuda.current_stream(beside[key]).wait_stream(stream)
    for key in streams:
        if results[key].device == beside[key]:
            results[key].record_stream(torch.cuda.current_stream(beside[key]))
    return {key: results[key] for key in tasks}


@lru_cache(maxsize=64)
def _stream(device: torch.device, slot: int) -> torch.cuda.Stream:
    """Return the same stream for the same slot every time: the allocator keeps memory apart for each stream."""
    return torch.cuda.Stream(device)
