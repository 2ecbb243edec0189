"""Keeps what building does to torch's global state, stdout and the environment from reaching anyone else."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import numpy as np
import torch

from tove_core.hub.process_state import process_state, put_back, written_here

BUILDING = threading.RLock()
"""Held while something is built: of random generators, default dtype, stdout and environment a process has but one."""


def expert_seed(name: str, seed: int) -> int:
    """Return the seed of one expert's random weights: a function of its name and the run's seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")


@contextmanager
def building() -> Iterator[None]:
    """Run a block on the CPU in float32, outside of inference mode, whatever the caller's defaults are.

    One thread at a time; others that come here wait.
    """
    ordinary = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with BUILDING, ordinary, torch.device("cpu"):
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw weights from a seed alone, and leave torch's generator as it was; one thread at a time."""
    with BUILDING:
        state = torch.default_generator.get_state()
        # Not torch.manual_seed, which would reseed every accelerator too.
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)


@contextmanager
def isolated(name: str, seed: int) -> Iterator[None]:
    """Run a block on the CPU in float32 with random generators seeded for one expert, and restore everything after.

    What it prints goes to stderr: stdout is for what a command was asked for, such as JSON. Generators are expected to
    be used; a block that changes one of torch's process-wide settings or an environment variable is a fault of its
    author and is reported as a RuntimeWarning. What other threads print goes where it did, and what they do to the
    environment stays; other blocks wait.

    Args:
        name: the expert, for the seed and the report.
        seed: the run's seed.
    """
    with building(), drawn_from(expert_seed(name, seed)), written_here() as written:
        generators = np.random.get_state(), random.getstate()
        np.random.seed(expert_seed(name, seed))
        random.seed(expert_seed(name, seed))
        before = process_state()
        try:
            with redirect_stdout(_Aside()):  # type: ignore[type-var]  # a stream by what it hands on
                yield
        finally:
            changed = put_back(before, written)
            np.random.set_state(generators[0])
            random.setstate(generators[1])
            if changed:
                warnings.warn(
                    f"the factory of expert '{name}' changed {', '.join(changed)}; it was undone, tell its author",
                    RuntimeWarning,
                    stacklevel=3,
                )


class _Aside:
    """In place of stdout: what the thread that made it prints goes to stderr, what others print goes on to stdout."""

    def __init__(self) -> None:
        self._thread, self._out = threading.get_ident(), sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if threading.get_ident() == self._thread else self._out, name)
