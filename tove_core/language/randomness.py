"""What draws from a seed alone and leaves the global generators as they were; for sampling see `draws`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tove_core.checks import whole


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generator within the block and restore it after it.

    Raises:
        ConfigError: the seed is no whole number that torch takes.
    """
    seed = whole(seed, "seed", least=-(2**63), most=2**64 - 1)  # what torch takes
    host = torch.get_rng_state()
    try:
        # torch.manual_seed would reach every card, also those whose state is not kept here.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(host)


@contextmanager
def restored() -> Iterator[None]:
    """Let the block seed torch's generators and draw from them; afterwards they are as they were, on every device."""
    host = torch.get_rng_state()
    # Without an earlier use of CUDA there is no state to keep, and asking for one would start it.
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(host)
        if cards:
            torch.cuda.set_rng_state_all(cards)
        if mps is not None:
            torch.mps.set_rng_state(mps)
