"""What a process takes of a step: samples that can be used, their texts, and what fixes all that is random of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from accelerate.utils import gather_object

from tove_core.data.batches import BatchSampler
from tove_core.data.broken import LeftOut
from tove_core.fusion.noise import sample_keys
from tove_core.language.base import Decoder
from tove_core.language.prompt import EncodedText
from tove_core.model import ToveModel
from tove_core.training.engine import Share
from tove_core.training.examples import Examples
from tove_core.training.lengths import CURE, too_long


class Shares:
    """Hands out the samples of the steps.

    A sample whose image cannot be read, or whose text is longer than the language model's longest sequence, is left
    out, counted and named; the next one that can be used comes in its place.

    Args:
        model: what is trained.
        decoder: its language model.
        examples: its samples; their `broken` counts images.
        sampler: says which samples a step has.
        seed: fixes noise, dropped experts and which of several texts is taken.

    Attributes:
        long: counts the samples that are too long.
    """

    def __init__(
        self, model: ToveModel, decoder: Decoder, examples: Examples, sampler: BatchSampler, seed: int
    ) -> None:
        self.decoder, self.examples, self.sampler, self.seed = decoder, examples, sampler, seed
        self.long = LeftOut(len(examples), examples.broken.limit, "samples", CURE)
        self._seen = math.prod(model.tower.grid)

    def take(self, step: int, steps: int, rank: int = 0, world: int = 1) -> Share:
        """Return what process `rank` of `world` takes of a step (from 0) of `steps`.

        Raises:
            DataError: too many images are unreadable, too many samples too long, or features on disk damaged.
        """
        own, *coming = [self.sampler.batch(n, rank, world) for n in (step, step + 1) if n < steps]
        rounds = self.sampler.rounds(step, rank, world)
        share = self._encoded(self.examples.usable(own, *coming), rounds)
        if any(self._fault(index, text) for index, text in zip(share.indices, share.texts, strict=True)):
            share = self._encoded(self.examples.usable(own, *coming, fits=self._fits(rounds)), rounds)
        if world > 1:  # alone, whoever reads them finds out
            self.examples.require_sound(share.indices)
        return share

    @property
    def untold(self) -> int:
        """How much was left out that other processes do not know of."""
        return self.long.untold + self.examples.broken.untold

    def exchange(self) -> None:
        """Let every process count what all have left out; all must call it.

        Raises:
            DataError: together it is too much; every process raises it.
        """
        told = gather_object([(self.examples.broken.news(), self.long.news())])
        for number, tally in enumerate((self.examples.broken, self.long)):
            tally.learn({key: reason for one in told for key, reason in one[number].items()})

    def _encoded(self, indices: list[int], rounds: Sequence[int]) -> Share:
        return Share(indices, sample_keys(self.seed, rounds, indices), self._texts(indices, rounds))

    def _texts(self, indices: Sequence[int], rounds: Sequence[int]) -> list[EncodedText]:
        targets = self.examples.targets(indices, rounds, seed=self.seed)
        return self.decoder.encode(self.examples.prompts(indices), targets)

    def _fits(self, rounds: Sequence[int]) -> Callable[[int, int], bool]:
        def fits(place: int, index: int) -> bool:
            (text,) = self._texts([index], [rounds[place]])
            fault = self._fault(index, text)
            if fault is not None:
                self.long.add(index, fault)
            return fault is None

        return fits

    def _fault(self, index: int, text: EncodedText) -> str | None:
        """Return why a sample cannot be used with this text, or None."""
        return too_long(self.decoder, self.examples, index, text, self._seen)
