"""Gradient checkpointing of a decoder: its layers keep no activations and are computed again in the backward pass.

transformers has a switch of its own, which does nothing for layers in evaluation mode, as frozen ones are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from tove_core.errors import ConfigError
from tove_core.language.base import Decoder


@contextmanager
def checkpointed(decoder: Decoder, wanted: bool = True) -> Iterator[None]:
    """Checkpoint every layer of the language model within the block; gradients are the same.

    Raises:
        ConfigError: transformers has marked no layers of this language model.
    """
    if not wanted:
        yield
        return
    layers = [m for m in decoder.language_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"{decoder.identity.architecture} has no layers that can be checkpointed; "
            "set training.checkpointing to false"
        )
    for layer in layers:
        layer.forward = partial(_again, layer.forward)  # an attribute of the object, which hides the class's
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _again(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
