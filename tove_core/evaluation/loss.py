"""The mean answer loss of a model: smoother than accuracy, and one forward pass."""

from __future__ import annotations

import torch

from tove_core.errors import ConfigError
from tove_core.model import ToveModel
from tove_core.training.examples import Examples


@torch.no_grad()
def mean_loss(model: ToveModel, examples: Examples, *, batch_size: int = 128) -> float:
    """Return nats per answer token over all samples, each with its first target.

    Raises:
        ConfigError: the model has no decoder.
        DataError: the examples hold features of another model.
    """
    if model.decoder is None:
        raise ConfigError("the answer loss needs a decoder; build the model with one")
    examples.require_of(model)
    model.eval()
    total, count = 0.0, 0
    for indices in examples.batches(batch_size):
        tokens = model.fuse(examples.features(indices)).tokens
        targets = [examples.samples[i].targets[0] for i in indices]
        output = model.decoder(tokens, examples.prompts(indices), targets)
        total += output.loss_sum.item()
        count += int(output.token_count)
    return total / count
