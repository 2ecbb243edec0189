"""Features that several processes compute together: each those of a part of the images, then all of them have all."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from tove_core.data.broken import BrokenImages
from tove_core.data.features import FeatureTable
from tove_core.errors import DataError

AT_ONCE = 64 * 2**20
"""Bytes that are sent at a time: what a card needs room for, where the processes speak over cards."""


def build_together(build: Callable[[range], FeatureTable], count: int, broken: BrokenImages) -> FeatureTable:
    """Return the features of all images; every process computes those of every `world`-th one. All must call it.

    Args:
        build: gives the features of the images of these numbers, and counts those among them that cannot be read.
        count: how many images there are.
        broken: where they are counted; afterwards it is the same in every process.

    Raises:
        DataError: too many images are unreadable, or another process failed; what this one raised is raised as it is.
    """
    state = PartialState()
    rank, world = state.process_index, state.num_processes
    if world == 1 or count < world:
        return build(range(count))
    part: FeatureTable | None = None
    problem: Exception | None = None
    try:
        part = build(range(rank, count, world))
    except Exception as error:  # the others wait for this process and must hear of it, whatever it is
        problem = error
    told = gather_object([(None if problem is None else f"{problem}", broken.reasons)])
    if part is None or problem is not None:
        raise problem or DataError(f"process {rank} has encoded no images")
    for number, (failed, _) in enumerate(told):
        if failed is not None:
            raise DataError(f"process {number} of {world} failed while it encoded its part of the images: {failed}")
    broken.learn({row: reason for _, reasons in told for row, reason in reasons.items()})
    return FeatureTable(_exchanged(part, count, state), part.fingerprint)


def _exchanged(part: FeatureTable, count: int, state: PartialState) -> dict[str, Tensor]:
    """Return the features of all images, [count, N, C] each, of this process's and the others' parts."""
    whole: dict[str, Tensor] = {}
    for name in sorted(part.features):
        own = part.features[name]
        found = torch.empty(count, *own.shape[1:], dtype=own.dtype)
        step = max(1, AT_ONCE // max(1, own[0].nbytes))
        for source in range(state.num_processes):
            theirs = found[source :: state.num_processes]  # a view
            for start in range(0, len(theirs), step):
                place = theirs[start : start + step]
                mine = source == state.process_index
                sent = own[start : start + step] if mine else torch.empty(place.shape, dtype=own.dtype)
                sent = sent.to(state.device).contiguous()
                dist.broadcast(sent, source)
                place.copy_(sent)
        whole[name] = found
    return whole
