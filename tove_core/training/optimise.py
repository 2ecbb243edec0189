"""Optimiser and schedule: AdamW with a learning rate per group, linear warm-up, cosine to a thousandth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tove_core.config import TrainingConfig
from tove_core.errors import ConfigError
from tove_core.training.step import TransferStep

FLOOR = 1e-3
FUSED = frozenset({"cpu", "cuda"})
"""Types of devices where AdamW takes a step in one pass over each parameter; several times as fast on a CPU."""


def adamw(parameters: Iterable[Any], **options: Any) -> torch.optim.AdamW:
    """Return AdamW, fused where every parameter lies on a device that has it so.

    Args:
        parameters: tensors, or groups of them.
        options: AdamW's own.
    """
    groups = list(parameters)
    tensors = [one for group in groups for one in (group["params"] if isinstance(group, dict) else [group])]
    fused = all(one.device.type in FUSED and one.is_floating_point() for one in tensors)
    return torch.optim.AdamW(groups, fused=fused or None, **options)


def require_exact(module: nn.Module) -> None:
    """Refuse to train parameters that most steps would not change: below float32 a weight moves by 1/256 of it or more.

    Raises:
        ConfigError: some are in less than float32.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype.itemsize < torch.float32.itemsize:
            raise inexact(name, str(parameter.dtype).removeprefix("torch."))


def inexact(what: str, dtype: str) -> ConfigError:
    """Return the error for what is to be trained in less than float32."""
    return ConfigError(
        f"{what} is in {dtype}, where most steps are smaller than what a weight can change by; train it in float32 "
        "(a language model: decoder.dtype float32), with training.precision bf16 to compute in bfloat16"
    )


def parameter_groups(step: TransferStep, config: TrainingConfig) -> list[dict[str, object]]:
    """Return AdamW's groups: fusion, gate, projector and language model, each at its own rate.

    Norms and biases get no weight decay.

    Raises:
        ConfigError: nothing is trainable.
    """
    parts = _parts(step)
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for parameter in step.parameters():
        if parameter.requires_grad:
            groups.setdefault((parts.get(id(parameter), "fusion"), parameter.dim() > 1), []).append(parameter)
    if not groups:
        raise ConfigError("nothing is trainable: there is no fusion and decoder.train is 'none'; change one of them")
    own = {
        "gate": config.gate_learning_rate,
        "projector": config.projector_learning_rate,
        "language_model": config.decoder_learning_rate,
    }
    return [
        {
            "params": parameters,
            "lr": own.get(part) or config.learning_rate,
            "weight_decay": config.weight_decay if matrix else 0.0,
            "part": part,
        }
        for (part, matrix), parameters in sorted(groups.items())
    ]


def _parts(step: TransferStep) -> dict[int, str]:
    """Return the part each parameter belongs to, by its id; those of the fusion but for its gate are left out."""
    gate = getattr(step.fusion, "gate", None)
    found = {"gate": [] if gate is None else list(gate.parameters())} | step.decoder.trainable_parameters()
    return {id(parameter): part for part, parameters in found.items() for parameter in parameters}


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
