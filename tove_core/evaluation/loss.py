"""The mean answer loss of a model: smoother than accuracy, and one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tove_core.errors import ConfigError, DataError
from tove_core.language.base import Decoder
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.lengths import fitting


def mean_loss(model: ToveModel, examples: Examples, *, batch_size: int = 128) -> float:
    """Return nats per answer token over all samples, each with its first target.

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
    for indices, features in kept.read(batch_size):
        nats, tokens = answer_loss(model, model.decoder, kept, indices, features)
        total, count = total + nats, count + tokens
    return total / require_answers(count, examples)


@torch.no_grad()
def answer_loss(
    model: ToveModel, decoder: Decoder, examples: Examples, indices: Sequence[int], features: Mapping[str, Tensor]
) -> tuple[float, int]:
    """Return the nats of some samples' first targets, given their features, and how many tokens these have."""
    targets = [examples.samples[i].targets[0] for i in indices]
    output = decoder(model.fuse(features).tokens, examples.prompts(indices), targets)
    return output.loss_sum.item(), int(output.token_count)


def require_answers(count: int, examples: Examples) -> int:
    """Return how many answer tokens were seen.

    Raises:
        DataError: none.
    """
    if not count:
        raise DataError(f"none of {len(examples)} samples can be used; check the data set")
    return count
