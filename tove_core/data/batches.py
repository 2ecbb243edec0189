"""Which samples make up training step s: computed from the seed alone, so that any step can be resumed exactly."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from tove_core.data.sample import Sample
from tove_core.errors import DataError


class Share(NamedTuple):
    """Neighbouring samples [first, first + count), and how often each of them comes per epoch."""

    first: int
    count: int
    weight: float

    @property
    def per_epoch(self) -> int:
        """How many of an epoch's positions they take."""
        return max(1, round(self.weight * self.count))


def mixture_parts(samples: Sequence[Sample]) -> tuple[Share, ...]:
    """Return the parts of a mixture in order; nothing where every sample weighs 1, as where there is no mixture."""
    parts, first = [], 0
    for (_, weight), group in groupby(samples, key=lambda sample: (sample.source, sample.weight)):
        count = sum(1 for _ in group)
        parts.append(Share(first, count, weight))
        first += count
    return tuple(parts) if any(part.weight != 1 for part in parts) else ()


def require_shares(batch_size: int, world: int) -> None:
    """Refuse more processes than a step has samples.

    Raises:
        DataError: there are.
    """
    if world > batch_size:
        raise DataError(
            f"{world} processes share a batch of {batch_size}, so that some would get no sample; "
            "raise training.batch_size or start fewer processes"
        )


class BatchSampler:
    """An endless, shuffled stream of sample numbers, cut into batches.

    The stream is one permutation of all samples after another, each drawn from (seed, epoch). Step s takes the
    positions [s·B, (s+1)·B) of the stream, so that a batch may end one epoch and begin the next, every sample
    comes exactly once per epoch, and no sample is ever dropped to make batches even. A batch that spans two epochs
    can hold a sample twice. There is no state: `batch` of any step can be asked in any order.

    Parts of a mixture have streams of their own, each one permutation of its samples after another. An epoch takes
    the next round(weight·count) positions of each, and shuffles them together. So after any number of epochs a
    part's samples have each come equally often, but for one time at most, and the parts' shares are exact.

    Args:
        n: number of samples.
        batch_size: samples per step over all processes together, B.
        seed: any whole number.
        parts: of a mixture, by `mixture_parts`; empty: every sample comes once per epoch.

    Raises:
        DataError: there are no samples, or the batch size is not positive.
    """

    def __init__(self, n: int, batch_size: int, seed: int, parts: Sequence[Share] = ()) -> None:
        if n < 1:
            raise DataError(f"batches of {n} samples were asked for, but at least 1 is needed; check the data set")
        if batch_size < 1:
            raise DataError(f"the batch size is {batch_size}, but at least 1 is needed; set training.batch_size")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        if parts and sum(part.count for part in parts) != n:
            raise DataError(f"the parts of a mixture hold {sum(p.count for p in parts)} samples of {n}; name them all")
        self.parts = tuple(parts)
        self.per_epoch = sum(part.per_epoch for part in parts) if parts else n
        """Positions of one epoch."""
        self._recent: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """Return the sample numbers of one step, or this process's share of them.

        Shares are strided (rank, rank + world, ...): together they are the batch of one process, whatever `world` is;
        their sizes differ by one where it does not divide the batch size.

        Raises:
            DataError: the step is negative, the rank is not below `world`, or a process would get nothing.
        """
        if step < 0:
            raise DataError(f"step {step} was asked for, but steps count from 0")
        if not 0 <= rank < world:
            raise DataError(f"rank {rank} of {world} processes was asked for, but ranks are 0 to {world - 1}")
        require_shares(self.batch_size, world)
        first = step * self.batch_size
        return [self._at(position)[0] for position in range(first + rank, first + self.batch_size, world)]

    def rounds(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """Return how often each sample of `batch` has come before: what is random about it is drawn anew each time."""
        first = step * self.batch_size
        return [self._at(position)[1] for position in range(first + rank, first + self.batch_size, world)]

    def _at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.per_epoch)
        samples, rounds = self._permutation(epoch)
        return int(samples[place]), int(rounds[place])

    def _permutation(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return samples and rounds of one epoch in order, keeping the last two: neighbouring steps need no others."""
        if epoch not in self._recent:
            order = self._drawn(f"{epoch}", self.per_epoch)
            if self.parts:
                samples, rounds = self._mixed(epoch)
                self._recent[epoch] = samples[order], rounds[order]
            else:
                self._recent[epoch] = order, np.full(len(order), epoch)
            if len(self._recent) > 2:
                self._recent.popitem(last=False)
        return self._recent[epoch]

    def _mixed(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what each part gives to an epoch, one part after another, and the rounds it comes from."""
        given, turns = [], []
        for number, part in enumerate(self.parts):
            first, last = epoch * part.per_epoch, (epoch + 1) * part.per_epoch
            rounds = range(first // part.count, -(-last // part.count))
            stream = np.concatenate([self._drawn(f"{one}/{number}", part.count) for one in rounds])
            start = first - rounds.start * part.count
            given.append(part.first + stream[start : start + part.per_epoch])
            turns.append(np.arange(first, last) // part.count)
        return np.concatenate(given), np.concatenate(turns)

    def _drawn(self, name: str, count: int) -> np.ndarray:
        # Hashed, so that neighbouring seeds and epochs, and negative seeds, give unrelated orders.
        key = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return np.random.default_rng(int.from_bytes(key, "big")).permutation(count)
