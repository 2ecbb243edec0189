"""How many processes train together, which one this is, and where it computes."""

from __future__ import annotations

import os
from datetime import timedelta

from accelerate import PartialState

from tove_core.errors import ConfigError

PATIENCE = timedelta(days=30)
"""How long one waits for others whose images may be many more or far larger."""


def join(device: str | None, wanted: int | None = None, *, patience: timedelta | None = None) -> PartialState:
    """Join the processes that were started together; alone where this one was started by itself.

    Args:
        device: where the model is; None or `cpu`: processes speak over gloo.
        wanted: how many there must be; None: as many as the launcher says it started.
        patience: how long one waits for the others; None: as long as torch does, which is minutes.

    Raises:
        ConfigError: there are more or fewer processes than wanted.
    """
    options = {} if patience is None else {"timeout": patience}
    state = PartialState(cpu=device in (None, "cpu"), **options)
    wanted = wanted or int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != wanted:
        raise ConfigError(
            f"{wanted} processes were asked for and {state.num_processes} train together; start them with "
            "--nproc, or with torchrun"
        )
    return state


def is_first() -> bool:
    """Return whether this process is the one that writes files and speaks."""
    return PartialState().is_main_process


def own_device(device: str | None) -> str | None:
    """Return this process's device: with several processes, `cuda` means one card for each.

    Raises:
        ConfigError: one device, such as a card or `mps`, was named for several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or device in (None, "cpu"):
        return device
    if device != "cuda":
        raise ConfigError(
            f"several processes cannot share the device {device!r}; give 'cuda', and each gets a card, or 'cpu'"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
