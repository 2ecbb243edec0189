"""What a run needs to go on exactly where it stopped: tensors, optimiser moments and the step. No pickles.

Nothing else is needed: batches, noise, dropped experts and the generator's seed are all computed from the step.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tove_core.errors import CheckpointError
from tove_core.folders import new_folder
from tove_core.hub.weights import read_safetensors

STATE = "state"
FORMAT = 1


def save_state(folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after `step` steps; an older state stays until the new one is complete."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(module).items():
        tensors[f"value.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value)
    with new_folder(folder, overwrite=True) as place:
        save_file({name: t.cpu().contiguous().clone() for name, t in tensors.items()}, place / "state.safetensors")
        (place / "state.json").write_text(json.dumps({"format": FORMAT, "step": step}) + "\n", encoding="utf-8")


def load_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore a state and return how many steps it has seen.

    Raises:
        CheckpointError: there is none, or it belongs to another model.
    """
    try:
        header = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        step = int(header["step"]) if header.get("format") == FORMAT else None
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} holds no state to resume from ({error}); start the run without resuming"
        ) from None
    if step is None:
        raise CheckpointError(f"{folder} was written in format {header.get('format')!r}; this tove reads {FORMAT}")
    tensors = read_safetensors(folder / "state.safetensors")
    trained = _trained(module)
    saved = {name.removeprefix("value."): t.shape for name, t in tensors.items() if name.startswith("value.")}
    wanted = {name: parameter.shape for name, parameter in trained.items()}
    if saved != wanted:
        odd = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
        raise CheckpointError(
            f"{folder} belongs to another model: {len(odd)} trained tensors differ, first {odd[0]}; "
            "resume with the configuration the run was started with"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors.pop(f"value.{name}"))
    for full, value in tensors.items():
        key, _, name = full.partition(".")
        optimizer.state[trained[name]][key] = value if value.dim() == 0 else value.to(trained[name].device)
    return step


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
