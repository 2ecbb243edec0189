"""Keeps what a plugin's factory does to torch's global state from reaching anyone else."""

from __future__ import annotations

import hashlib
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch


def expert_seed(name: str, seed: int) -> int:
    """Return the seed of one expert's random weights: a function of its name and the run's seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")


@contextmanager
def isolated(name: str, seed: int) -> Iterator[None]:
    """Run a block on the CPU in float32 with random generators seeded for one expert, and restore everything after.

    What it prints goes to stderr: stdout is for what a command was asked for, such as JSON. Generators are expected to
    be used; a block that changes the default dtype, the gradient mode, the number of threads or the matmul precision
    is a fault of its author and is reported as a RuntimeWarning.

    Args:
        name: the expert, for the seed and the report.
        seed: the run's seed.
    """
    generators = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    own = expert_seed(name, seed)
    # Not torch.manual_seed, which would reseed every accelerator too.
    torch.default_generator.manual_seed(own)
    np.random.seed(own)
    random.seed(own)
    before = _state()
    try:
        with torch.device("cpu"), redirect_stdout(sys.stderr):
            yield
    finally:
        changed = [key for key, value in _state().items() if value != before[key]]
        _restore(before)
        torch.set_default_dtype(dtype)
        torch.default_generator.set_state(generators[0])
        np.random.set_state(generators[1])
        random.setstate(generators[2])
        if changed:
            warnings.warn(
                f"the factory of expert '{name}' changed torch's {', '.join(changed)}; it was undone, tell its author",
                RuntimeWarning,
                stacklevel=3,
            )


def _state() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "number of threads": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
    }


def _restore(state: dict[str, object]) -> None:
    if torch.is_grad_enabled() != state["gradient mode"]:
        torch.set_grad_enabled(bool(state["gradient mode"]))
    if torch.get_num_threads() != state["number of threads"]:
        torch.set_num_threads(int(str(state["number of threads"])))
    if torch.get_float32_matmul_precision() != state["matmul precision"]:
        torch.set_float32_matmul_precision(str(state["matmul precision"]))
