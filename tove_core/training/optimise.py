"""Optimiser and schedule: AdamW with a learning rate per group, linear warm-up, cosine to a thousandth."""

from __future__ import annotations

import math

import torch
from torch import nn

from tove_core.config import TrainingConfig
from tove_core.errors import ConfigError
from tove_core.training.step import TransferStep

FLOOR = 1e-3


def parameter_groups(step: TransferStep, config: TrainingConfig) -> list[dict[str, object]]:
    """Return AdamW's groups: fusion and projector at `learning_rate`, the language model at its own.

    Norms and biases get no weight decay.

    Raises:
        ConfigError: nothing is trainable.
    """
    language = {id(p) for p in step.decoder.trainable_parameters().get("language_model", [])}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in step.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in language, parameter.dim() > 1), []).append(parameter)
    if not groups:
        raise ConfigError("nothing is trainable: there is no fusion and decoder.train is 'none'; change one of them")
    rates = {True: config.decoder_learning_rate or config.learning_rate, False: config.learning_rate}
    return [
        {"params": parameters, "lr": rates[of_language], "weight_decay": config.weight_decay if matrix else 0.0}
        for (of_language, matrix), parameters in sorted(groups.items())
    ]


def schedule(step: int, config: TrainingConfig) -> float:
    """Return the factor on the learning rates at a step (from 0)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    done = min(1.0, step / config.steps)
    return warm * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times the rate it was made with."""
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor
