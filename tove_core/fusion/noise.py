"""Randomness that belongs to a sample and not to a batch: gate noise and expert dropout.

A sample gets the same noise whichever batch, process or order it comes in, so runs resume and scale exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1

GATE, _DROPOUT, OWN_GATES, _TURNS = 1, 2, 3, 4
"""Streams of a sample: noise of the shared gate, dropped experts, noise of gates that experts have to themselves, and
the order in which its texts take turns."""


def sample_keys(seed: int, epoch: Sequence[int], index: Sequence[int]) -> Tensor:
    """Return one integer [B] per sample, int64, that decides its noise and dropped experts.

    Args:
        seed: of the run.
        epoch: B of them: how often each sample has been taken before.
        index: B of them: each sample's place in the data set.
    """
    # As Python's integers, which do not overflow: arrays and tensors give numbers of 64 bits.
    taken = [(int(e), int(i)) for e, i in zip(epoch, index, strict=True)]
    keys = [((int(seed) * 1_000_003 + e) * _MIX + i * 0xD1B54A32D192ED03) & _MASK for e, i in taken]
    return torch.tensor(keys, dtype=torch.int64)


def sample_noise(keys: Tensor, shape: Sequence[int], device: torch.device, *, stream: int = GATE) -> Tensor:
    """Return standard normal noise [B, *shape], each sample's drawn from its own key and stream."""
    drawn = [torch.randn(*shape, generator=_generator(key, stream)) for key in keys.tolist()]
    return torch.stack(drawn).to(device) if drawn else torch.empty(0, *shape, device=device)


def sample_mask(keys: Tensor, experts: int, dropout: float) -> Tensor:
    """Return bool [B, K] on the CPU, False where a sample trains without an expert.

    Args:
        keys: [B], as `sample_keys` gives them.
        experts: K.
        dropout: chance that a sample goes without a given expert.
    """
    drawn = [torch.rand(experts, generator=_generator(key, _DROPOUT)) >= dropout for key in keys.tolist()]
    return torch.stack(drawn) if drawn else torch.ones(0, experts, dtype=torch.bool)


def sample_turn(seed: int, turn: int, index: int, count: int) -> int:
    """Return which of `count` things a sample takes: in `count` turns each once, in an order drawn anew each time.

    Args:
        seed: of the run.
        turn: how often the sample has been taken before.
        index: its place in the data set.
        count: at least 1.
    """
    if count == 1:
        return 0
    lap, place = divmod(turn, count)
    (key,) = sample_keys(seed, [lap], [index]).tolist()
    return int(torch.randperm(count, generator=_generator(key, _TURNS))[place])


def _generator(key: int, stream: int) -> torch.Generator:
    # Several streams, so that the noise of a sample says nothing about which experts it drops.
    return torch.Generator().manual_seed((key ^ (stream * 0x5851F42D4C957F2D)) & _MASK)


def annealed(value: float, step: int, steps: int) -> float:
    """Return `value` falling to zero along half a cosine over the run: the noise of a gate at a step, from 0."""
    return value * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
