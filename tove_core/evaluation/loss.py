"""The mean answer loss of a model: smoother than accuracy, and one forward pass."""

from __future__ import annotations

import torch

from tove_core.errors import ConfigError
from tove_core.model import ToveModel
from tove_core.training.answers import answer_loss, require_answers
from tove_core.training.examples import Examples
from tove_core.training.lengths import fitting
from tove_core.training.shown import fuse_shown


@torch.no_grad()
def mean_loss(model: ToveModel, examples: Examples, *, batch_size: int = 128) -> float:
    """Return nats per answer token over all samples, each with its first target; experts as the model is deployed.

    Samples that are too long for the language model, or whose image turns out unreadable, are left out, with a warning.

    Raises:
        ConfigError: the model has no decoder.
        DataError: the examples hold features of another model, or more of them than allowed, or all, are left out.
    """
    if model.decoder is None:
        raise ConfigError("the answer loss needs a decoder; build the model with one")
    examples.require_of(model)
    model.eval()
    total, count = 0.0, 0
    kept = fitting(model, model.decoder, examples)
    for indices, shown in kept.read(batch_size, deployed=model is kept.model):
        enhanced = shown.by_sample(fuse_shown(model, shown).tokens)
        nats, tokens = answer_loss(model.decoder, kept, indices, enhanced)
        total, count = total + nats, count + tokens
    return total / require_answers(count, examples)
