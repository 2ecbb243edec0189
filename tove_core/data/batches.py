"""Which samples make up training step s: computed from the seed alone, so that any step can be resumed exactly."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from tove_core.errors import DataError


class BatchSampler:
    """An endless, shuffled stream of sample numbers, cut into batches.

    The stream is one permutation of all samples after another, each drawn from (seed, epoch). Step s takes the
    positions [s·B, (s+1)·B) of the stream, so that a batch may end one epoch and begin the next, every sample
    comes exactly once per epoch, and no sample is ever dropped to make batches even. A batch that spans two epochs
    can hold a sample twice. There is no state: `batch` of any step can be asked in any order.

    Args:
        n: number of samples.
        batch_size: samples per step over all processes together, B.
        seed: any whole number.

    Raises:
        DataError: there are no samples, or the batch size is not positive.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1:
            raise DataError(f"batches of {n} samples were asked for, but at least 1 is needed; check the data set")
        if batch_size < 1:
            raise DataError(f"the batch size is {batch_size}, but at least 1 is needed; set training.batch_size")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()

    def epoch(self, step: int) -> float:
        """Return how many epochs are over before `step`."""
        return step * self.batch_size / self.n

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
        if world > self.batch_size:
            raise DataError(
                f"{world} processes share a batch of {self.batch_size}, so that some would get no sample; "
                "raise training.batch_size or start fewer processes"
            )
        first = step * self.batch_size
        return [self._at(position) for position in range(first + rank, first + self.batch_size, world)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.n)
        return int(self._permutation(epoch)[place])

    def _permutation(self, epoch: int) -> np.ndarray:
        """Return the order of one epoch, keeping the last two: neighbouring steps need no others."""
        if epoch not in self._recent:
            # Hashed, so that neighbouring seeds and epochs, and negative seeds, give unrelated orders.
            key = hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()
            self._recent[epoch] = np.random.default_rng(int.from_bytes(key, "big")).permutation(self.n)
            if len(self._recent) > 2:
                self._recent.popitem(last=False)
        return self._recent[epoch]
