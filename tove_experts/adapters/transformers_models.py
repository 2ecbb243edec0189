"""What all adapters of transformers models share: configurations from options, and weights under current names.

Files on the hub keep the names of the day they were written, while the library renames and splits parameters between
its versions and carries the table from the one to the other. What `from_pretrained` does with that table is done here
on a plain state dict: no configuration is fetched, nothing is downloaded, and nothing that does not fit is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

_Config = TypeVar("_Config", bound=PreTrainedConfig)

PREFIX = "model."
"""What the names of the library's model begin with inside an adapter."""


def configured(config_class: type[_Config], options: Mapping[str, Any]) -> _Config:
    """Return the library's configuration with the deviations from its defaults that option `config` lists."""
    # Copied: the library takes nested dictionaries apart, and the options belong to the spec.
    return config_class(**deepcopy(dict(options["config"])))


def skeleton(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model without storage, from which names are read."""
    with torch.device("meta"):
        return model_class(config)


def current_names(
    state: Mapping[str, Tensor],
    model: PreTrainedModel,
    *,
    within: str = "",
    drop: Iterable[str] = (),
    prefix: str = PREFIX,
) -> dict[str, Tensor]:
    """Return a state dict under the names of the installed library.

    Args:
        state: tensors under the names of a published file; where all of them are current already, they stay.
        model: a model of the same class, of any size, on any device: see `skeleton`.
        within: take only the tensors below this prefix, and take it off: `encoder.` in a file with a decoder.
        drop: patterns, searched in the current names, of tensors the model computes by itself or has no use for, in
            addition to those the model's class says may be ignored.
        prefix: put before every name.
    """
    taken = {name.removeprefix(within): tensor for name, tensor in state.items() if name.startswith(within)}
    ignored = [re.compile(pattern) for pattern in (*(model._keys_to_ignore_on_load_unexpected or ()), *drop)]
    return {
        prefix + name: tensor
        for name, tensor in _converted(taken, model).items()
        if not any(pattern.search(name) for pattern in ignored)
    }


def _converted(state: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    known = {_without_numbers(name) for name in model.state_dict()}
    if all(_without_numbers(name) in known for name in state):
        return dict(state)  # written under current names; the renamings are made for old ones
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    result: dict[str, Tensor] = {}
    pending: dict[str, WeightConverter] = {}
    for name in sorted(state, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters)
        if pattern is None:
            result[renamed] = state[name]
        else:
            # Several tensors may go into one, or one into several: each group has a converter of its own.
            converter = pending.setdefault(renamed, deepcopy(by_pattern[pattern]))
            converter.add_tensor(renamed, name, pattern, state[name])  # type: ignore[arg-type]  # a future or a tensor
    for renamed, converter in pending.items():
        for name, tensor in converter.convert(renamed, model=model, config=model.config).items():
            result[name] = tensor[0] if isinstance(tensor, list) else tensor
    return result


def _without_numbers(name: str) -> str:
    """Return a name without the numbers of layers and blocks: the model may have fewer of them than the file."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "0", name)
