"""The state of an expert's module, apart from what is no tensor: weights files and checkpoints hold tensors only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_EXTRA = "_extra_state"
"""How torch names what `get_extra_state` gives."""


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module's state; what else its parts give by `get_extra_state` is left out."""
    return {key: value for key, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def load_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors, all of them and no others. Extra state that is no tensor stays as the module was built with.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    own = module.state_dict()
    takes = [
        name for name, part in module.named_modules() if type(part).set_extra_state is not nn.Module.set_extra_state
    ]
    keys = [f"{name}.{_EXTRA}" if name else _EXTRA for name in takes]
    kept = {key: own[key] for key in keys if key in own and not isinstance(own[key], Tensor)}
    module.load_state_dict({**kept, **state}, strict=True)


def copied_to_cpu(tensor: Tensor) -> Tensor:
    """Return a copy that shares no memory, as safetensors wants it; made in one go, wherever the tensor lies."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
