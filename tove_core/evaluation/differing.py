"""Samples on which two runs differ, drawn by chance alone and the same ones every time, spread over kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tove_core.data.sample import Sample, load_image
from tove_core.evaluation.diagnosis import Example
from tove_core.model import ToveModel


@dataclass(frozen=True)
class Pair:
    """What two runs said about one sample, and what each scored."""

    id: str
    image: str
    kind: str
    metric: str
    run: str
    other: str
    run_score: float
    other_score: float


def choose(pairs: Sequence[Pair], count: int, *, seed: int = 0) -> list[Pair]:
    """Return up to `count` samples whose scores differ: half where the run is better, half where the other is.

    Kinds take turns, and within a kind the order is that of a hash of the ids, so that nothing but chance decides and
    adding samples does not change which others are drawn first. An image comes twice only where nothing else is left.
    Where one half has too few, the other gets the rest.
    """
    better = _in_turns([pair for pair in pairs if pair.run_score > pair.other_score], count, seed)
    worse = _in_turns([pair for pair in pairs if pair.run_score < pair.other_score], count, seed)
    fewer = min(len(worse), count // 2)
    most = better[: count - fewer]
    return most + worse[: count - len(most)]


def _in_turns(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Return the first so many samples in the order they are drawn in: one of each kind after another."""
    waiting: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.kind, hashlib.sha256(f"{seed}/{pair.id}".encode()).digest())):
        waiting.setdefault(pair.kind, []).append(pair)
    order: list[Pair] = []
    seen: set[str] = set()
    while waiting and len(order) < count:
        for kind in list(waiting):
            queue = waiting[kind]
            picked = next((pair for pair in queue if pair.image not in seen), queue[0])
            queue.remove(picked)
            order.append(picked)
            seen.add(picked.image)
            if not queue:
                del waiting[kind]
            if len(order) == count:
                return order
    return order


@torch.no_grad()
def gate_maps(model: ToveModel, chosen: Sequence[tuple[Sample, Pair]]) -> list[Example]:
    """Return the examples with their gate maps, one image at a time through the model."""
    gated = model.config.fusion.kind == "gate" and bool(model.active_experts)
    return [
        Example(
            sample, pair.kind, pair.metric, pair.run, pair.other, pair.run_score, pair.other_score,
            _maps(model, sample) if gated else {},
        )
        for sample, pair in chosen
    ]  # fmt: skip


def _maps(model: ToveModel, sample: Sample) -> dict[str, np.ndarray]:
    maps = model.gates([load_image(image) for image in sample.images])
    return {name: maps[name].float().cpu().numpy() for name in model.active_experts}
