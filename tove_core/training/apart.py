"""Keeps tove's use of accelerate and that of whoever calls it apart: accelerate has one state for a whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from tove_core.errors import ConfigError


@contextmanager
def apart() -> Iterator[None]:
    """Let an `Accelerator` be made within the block that knows nothing of the caller's, and the caller's of it.

    Of precision and gradient accumulation that is. Which device and which processes there are is one for both.
    """
    held = [kind._shared_state for kind in (AcceleratorState, GradientState)]
    before = [dict(state) for state in held]
    for state in held:  # in place: every accelerator of the process holds the same mapping
        state.clear()
    try:
        yield
    finally:
        for state, kept in zip(held, before, strict=True):
            state.clear()
            state.update(kept)


def require_device(device: torch.device) -> None:
    """Refuse a CPU where accelerate has set this process up for another kind of device, which it keeps for good.

    Raises:
        ConfigError: it has.
    """
    kept = PartialState().device if PartialState._shared_state else None
    if device.type == "cpu" and kept is not None and kept.type != "cpu":
        raise ConfigError(
            f"training on cpu cannot begin (accelerate holds {kept} for this process, from a training or an "
            "Accelerator before); train in a process of its own"
        )
