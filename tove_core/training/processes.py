"""How many processes train together, which one this is, and where it computes."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object

from tove_core.errors import ConfigError, ToveError
from tove_core.hub.placement import usable_device

PATIENCE = timedelta(days=30)
"""How long one waits for others whose images may be many more or far larger."""


def join(
    device: str | torch.device | None, wanted: int | None = None, *, patience: timedelta | None = None
) -> PartialState:
    """Join the processes that were started together; alone where this one was started by itself.

    Args:
        device: where the model is; None or `cpu`: processes speak over gloo.
        wanted: how many there must be; None: as many as the launcher says it started.
        patience: how long one waits for the others; None: as long as torch does, which is minutes.

    Raises:
        ConfigError: there are more or fewer processes than wanted, or there is no such device here.
    """
    device = None if device is None else str(device)
    if device is not None and device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        usable_device(device, "the model's device")  # which says so: else the processes would only not find each other
    options = {} if patience is None else {"timeout": patience}
    joined = dist.is_available() and dist.is_initialized()
    state = PartialState(cpu=device in (None, "cpu"), **options)
    if not joined and state.num_processes > 1:
        atexit.register(_leave)
    wanted = wanted or int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != wanted:
        raise ConfigError(
            f"{wanted} processes were asked for and {state.num_processes} train together; start them with "
            "--nproc, or with torchrun"
        )
    return state


def _leave() -> None:
    """End the threads that gloo exchanges tensors with, which a process must not end before.

    One of them may still hold a tensor it has exchanged; dropping it while Python ends is SIGABRT (pytorch#179291) of
    a run that had ended well. Over NCCL there is no such thread, and after a failure the others may never come.
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        gc.collect()  # what trained in several processes holds the threads too, and parts of it hold each other
        dist.destroy_process_group()


def is_first() -> bool:
    """Return whether this process is the one that writes files and speaks."""
    return PartialState().is_main_process


@contextmanager
def all_told() -> Iterator[None]:
    """Let all processes meet at the end of the block, which the first one writes files in, and fail alike.

    Otherwise the others would wait for it in the next step, and end with torch's words on a lost connection.

    Raises:
        ToveError: what was raised in the block, by this process or by another one.
    """
    problem: ToveError | None = None
    try:
        yield
    except ToveError as error:
        problem = error
    tell(problem)


def tell(problem: ToveError | None) -> None:
    """Let every process know what went wrong in any of them, and fail alike; all must call it.

    Args:
        problem: what this one raised, if anything.

    Raises:
        ToveError: `problem`, or else what another process told, of the same type and in the same words.
    """
    told: list[tuple[type[ToveError], str] | None] = [None if problem is None else (type(problem), f"{problem}")]
    if PartialState().num_processes > 1:
        told = gather_object(told)
    if problem is not None:
        raise problem
    for one in told:
        if one is not None:
            kind, words = one
            raise kind(words)


def own_device(device: str | torch.device | None) -> str | None:
    """Return this process's device: with several processes, `cuda` means one card for each.

    Raises:
        ConfigError: one device, such as a card or `mps`, was named for several processes.
    """
    device = None if device is None else str(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or device in (None, "cpu"):
        return device
    if device != "cuda":
        raise ConfigError(
            f"several processes cannot share the device {device!r}; give 'cuda', and each gets a card, or 'cpu'"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
