"""The answer loss on held-out samples, while a model is trained: before it rises again is the time to stop."""

from __future__ import annotations

from pathlib import Path

import torch

from tove_core.config import RunConfig
from tove_core.data.readers import read
from tove_core.language.base import Decoder
from tove_core.model import ToveModel
from tove_core.training.answers import answer_loss, require_answers
from tove_core.training.engine import Engine
from tove_core.training.examples import Examples
from tove_core.training.lengths import fitting
from tove_core.training.processes import all_told
from tove_core.training.source import Offer, make_examples

BATCH = 128
"""Samples that are measured at a time."""


class Validation:
    """Measures a model on held-out samples. Nothing random is drawn, so that training goes on as without it.

    Args:
        model: what is trained.
        examples: the held-out samples, with features of that model; all that fit are measured.
        every: steps between two measurements; the last step is measured too.

    Raises:
        DataError: too many samples are too long for the language model.
    """

    def __init__(self, model: ToveModel, decoder: Decoder, examples: Examples, every: int) -> None:
        self.model, self.decoder, self.every = model, decoder, every
        self.examples = fitting(model, decoder, examples)

    @torch.no_grad()
    def loss(self, engine: Engine, done: int, steps: int) -> float | None:
        """Return nats per answer token after `done` of `steps` steps; None where none are asked for then.

        Every process asks, and measures its part of the samples.

        Raises:
            DataError: too many images are unreadable, or there is nothing to measure on.
        """
        if done % self.every and done != steps:
            return None
        self.model.eval()
        nats, tokens = 0.0, 0
        mine = list(range(engine.rank, len(self.examples), engine.world))
        with all_told():
            own = self.examples.some(mine) if engine.world > 1 else self.examples
            for indices, shown in own.read(BATCH) if mine else ():
                tokens_of = shown.by_sample(self.model.fuse(shown.features).tokens)
                part = answer_loss(self.decoder, own, indices, tokens_of)
                nats, tokens = nats + part[0], tokens + part[1]
        engine.module.train()
        total, count = engine.sums(nats, tokens)
        return total / require_answers(int(count), self.examples)


def validation_of(config: RunConfig, model: ToveModel, *, quiet: bool) -> Validation | None:
    """Return what measures a run's model while it is trained; None where the run asks for nothing.

    A cache that the run reads serves here where it holds these images too; else their features are computed.

    Raises:
        DataError: the validation data cannot be read.
    """
    every, data, own = config.training.validate_every, config.validation, config.training.cache
    if every is None or data is None or model.decoder is None:
        return None
    limit = min(config.training.validate_limit, data.limit or config.training.validate_limit)
    samples = read(data.model_copy(update={"limit": limit}), key="validation.path")
    examples = make_examples(
        model,
        samples,
        cache=Offer(own) if isinstance(own, Path) else own,
        quiet=quiet,
        label="encode validation",
        max_broken=data.max_broken,
        workers=config.training.workers,
        together=True,
    )
    return Validation(model, model.decoder, examples, every)
