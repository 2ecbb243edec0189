"""Keeps what a plugin's factory does to torch's global state and to the environment from reaching anyone else."""

from __future__ import annotations

import hashlib
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch

from tove_core.hub.process_state import process_state, put_back


def expert_seed(name: str, seed: int) -> int:
    """Return the seed of one expert's random weights: a function of its name and the run's seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")


@contextmanager
def isolated(name: str, seed: int) -> Iterator[None]:
    """Run a block on the CPU in float32 with random generators seeded for one expert, and restore everything after.

    What it prints goes to stderr: stdout is for what a command was asked for, such as JSON. Generators are expected to
    be used; a block that changes one of torch's process-wide settings or an environment variable is a fault of its
    author and is reported as a RuntimeWarning.

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
    before = process_state()
    try:
        with torch.device("cpu"), redirect_stdout(sys.stderr):
            yield
    finally:
        changed = put_back(before)
        torch.set_default_dtype(dtype)
        torch.default_generator.set_state(generators[0])
        np.random.set_state(generators[1])
        random.setstate(generators[2])
        if changed:
            warnings.warn(
                f"the factory of expert '{name}' changed {', '.join(changed)}; it was undone, tell its author",
                RuntimeWarning,
                stacklevel=3,
            )
