"""What draws from a seed alone and leaves the global generators as they were; for sampling see `draws`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tove_core.checks import whole


@contextmanager
def seeded(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Seed the generators of the CPU and of `device` within the block and restore them after it.

    Args:
        seed: None changes nothing; the block then draws from the global generators.
        device: a CUDA or MPS device whose generator is seeded too; None or the CPU: only the CPU's.

    Raises:
        ConfigError: the seed is no whole number that torch takes.
    """
    if seed is None:
        yield
        return
    seed = whole(seed, "seed", least=-(2**63), most=2**64 - 1)  # what torch takes
    if device is not None and device.type == "mps":
        with _seeded_mps(seed), seeded(seed):
            yield
        return
    cuda = device if device is not None and device.type == "cuda" else None
    host = torch.get_rng_state()
    card = torch.cuda.get_rng_state(cuda) if cuda is not None else None
    try:
        # torch.manual_seed would reach every card, also those whose state is not kept here.
        torch.default_generator.manual_seed(seed)
        if cuda is not None:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(host)
        if card is not None and cuda is not None:
            torch.cuda.set_rng_state(card, cuda)


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


@contextmanager
def _seeded_mps(seed: int) -> Iterator[None]:
    state = torch.mps.get_rng_state()
    try:
        torch.mps.manual_seed(seed)
        yield
    finally:
        torch.mps.set_rng_state(state)
