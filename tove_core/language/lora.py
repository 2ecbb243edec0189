"""Low-rank adapters (LoRA, arXiv 2106.09685) in a frozen language model, through peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tove_core.config import LoraConfig
from tove_core.errors import ConfigError

ADAPTER = "default"
"""The name peft gives adapters that are given none; it is part of their tensors' names."""


def add_lora(model: PreTrainedModel, config: LoraConfig) -> list[nn.Parameter]:
    """Put adapters beside linear layers of a language model, in place, and return their parameters.

    They start at nothing: what the model says is the same until they are trained. Like all that is trained they are in
    float32, whatever the language model is in: below, most steps are smaller than what a weight can change by.

    Raises:
        ConfigError: peft is not installed, or the language model has no such layers.
    """
    try:
        from peft import LoraConfig as Settings
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "decoder.train 'lora' needs peft, which is not installed; run 'pip install \"tove-core[lora]\"'"
        ) from error
    before = {id(parameter) for parameter in model.parameters()}
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = Settings(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets)  # type: ignore[call-arg]
    try:
        inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigError(
            f"decoder.lora.targets {config.targets!r} do not suit {type(model).__name__} ({str(error).split('.')[0]}); "
            "give the names of its linear layers, or 'all-linear'"
        ) from error
    added = [parameter for parameter in model.parameters() if id(parameter) not in before]
    for parameter in added:
        parameter.data = parameter.data.float()
    return added


def adapted(model: nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by name; none where peft is not installed."""
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError:
        return {}
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a language model's adapters, whether or not they ask for gradients."""
    layers = adapted(model).values()
    return [p for layer in layers for name, p in layer.named_parameters() if not name.startswith("base_layer.")]


def plain_state(model: PreTrainedModel, *, merged: bool = False) -> dict[str, Tensor]:
    """Return a language model's tensors under the names they have without adapters.

    Args:
        merged: with what the adapters have learned added to the weights; else the weights as they were loaded.
    """
    layers = adapted(model)
    inside = tuple(f"{name}." for name in layers)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(inside or "\0")}
    for name, layer in layers.items():
        base = {f"{name}.{key}": value for key, value in layer.get_base_layer().state_dict().items()}
        if merged:
            weight = base[f"{name}.weight"]
            with torch.no_grad():
                base[f"{name}.weight"] = weight + layer.get_delta_weight(ADAPTER).to(weight.dtype)
        state |= base
    return state
