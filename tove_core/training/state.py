"""What a run needs to go on exactly where it stopped: tensors, optimiser moments and the step. No pickles.

Nothing else is needed: batches, noise, dropped experts and the generator's seed are all computed from the step.
A state is a new folder that appears by one rename and holds its own hash, so that a process killed at any moment
leaves the states before it untouched, and a damaged one is noticed.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tove_core.errors import CheckpointError, ToveError
from tove_core.folders import new_folder
from tove_core.hub.state import copied_to_cpu
from tove_core.hub.weights import read_safetensors, sha256
from tove_core.run_folder import states
from tove_core.training.average import begun
from tove_core.training.pieces import laid_out, whole

FORMAT = 2
KEPT = 2
"""States that stay: the newest, and the one before it, should a disk damage the newest."""
TENSORS, HEADER = "state.safetensors", "state.json"
STATISTICS = "align"
"""What the names of channel statistics begin with."""


def save_state(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
    *,
    statistics: Mapping[str, Tensor] | None = None,
    origin: Mapping[str, object] | None = None,
    write: bool = True,
) -> Path:
    """Write the state after `step` steps and return its folder; the states before it stay until it is complete.

    Every process calls it: tensors that are divided among processes are put together, and files hold whole ones.

    Args:
        folder: holds all states of a run.
        average: moving averages of trained tensors, by name.
        statistics: what the features were normalised by, by name in `ToveModel.align`.
        origin: what the order of the samples is computed from, by what it is called; JSON values.
        write: whether this process is the one that writes.

    Raises:
        CheckpointError: it cannot be written.
    """
    place = folder / f"step-{step:08d}"
    tensors: dict[str, Tensor] = {}
    for name, part in _parts(module, optimizer, average or {}, statistics or {}):
        tensor = whole(part)
        if write:
            tensors[name] = copied_to_cpu(tensor)
    if not write:
        return place
    with new_folder(place, overwrite=True) as new:
        save_file(tensors, new / TENSORS)
        header = {"format": FORMAT, "step": step, "sha256": sha256(new / TENSORS), "origin": dict(origin or {})}
        (new / HEADER).write_text(json.dumps(header) + "\n", encoding="utf-8")
        for name in (TENSORS, HEADER):
            _to_disk(new / name)  # before the rename: a power cut must not leave a whole name on half a file
    for old in states(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    for torn in folder.glob(".step-*.tmp"):  # of processes that were killed while they wrote
        shutil.rmtree(torn, ignore_errors=True)
    return place


def load_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None = None,
    *,
    origin: Mapping[str, object] | None = None,
) -> int:
    """Restore the newest state that is whole and return how many steps it has seen.

    A damaged state is passed over with a warning that names it. Averages that no state has begin with its parameters.

    Args:
        origin: as for `save_state`; what differs from the state's is told in a warning.

    Raises:
        CheckpointError: there is none, or it belongs to another model.
    """
    place, step, begun_with, problems = _newest_whole(folder)
    for problem in problems:
        warnings.warn(f"{problem}; going on from the older state {place.name}", stacklevel=2)
    tensors = read_safetensors(place / TENSORS)
    _restore(place, {n: t for n, t in tensors.items() if n.partition(".")[0] != STATISTICS}, module, optimizer, average)
    _tell_changes(place, begun_with, origin or {})
    return step


@torch.no_grad()
def restore_statistics(folder: Path, align: nn.Module) -> bool:
    """Give a model's alignment the channel statistics of the state that `load_state` restores.

    Args:
        folder: holds all states of a run.
        align: `ToveModel.align`.

    Returns:
        Whether it has all it needs: states of older versions hold none.

    Raises:
        CheckpointError: there is no whole state, or it belongs to another model.
    """
    place = _newest_whole(folder)[0]
    wanted = dict(align.named_buffers())
    with safe_open(place / TENSORS, framework="pt") as file:
        names = [name for name in file.keys() if name.partition(".")[0] == STATISTICS]  # noqa: SIM118
        held = {name.partition(".")[2]: file.get_tensor(name) for name in names}
    if not held:
        return not wanted
    if {name: value.shape for name, value in held.items()} != {name: value.shape for name, value in wanted.items()}:
        raise CheckpointError(
            f"{place} belongs to another model: it holds channel statistics {', '.join(sorted(held))} and this one "
            f"has {', '.join(sorted(wanted)) or 'none'}; resume with the configuration the run was started with"
        )
    for name, value in held.items():
        wanted[name].copy_(value)
    return True


def _newest_whole(folder: Path) -> tuple[Path, int, Mapping[str, object], list[str]]:
    """Return the newest state that is whole, its step and origin, and what is wrong with those after it.

    Raises:
        CheckpointError: there is none.
    """
    problems = []
    for place in states(folder):
        try:
            return place, *_verified(place), problems
        except ToveError as error:
            problems.append(str(error))
    reason = f" ({'; '.join(problems)})" if problems else ""
    raise CheckpointError(f"{folder} holds no state to resume from{reason}; start the run without resuming")


def _tell_changes(place: Path, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    changed = [
        f"{name} (was {before[name]}, is {now[name]})" for name in now if before.get(name, now[name]) != now[name]
    ]
    if changed:
        warnings.warn(
            f"the run goes on from {place.name} with other {', '.join(changed)}: which samples its next steps take is "
            "not what it would have been",
            stacklevel=3,
        )


def _verified(place: Path) -> tuple[int, Mapping[str, object]]:
    """Return a state's step and origin, once the hash of its tensors has been found right."""
    try:
        header = json.loads((place / HEADER).read_text(encoding="utf-8"))
        version, step, digest = header["format"], int(header["step"]), header["sha256"]
        origin = dict(header.get("origin", {}))  # older states have none
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place / HEADER} cannot be read ({error})") from None
    if version != FORMAT:
        raise CheckpointError(f"{place} was written in format {version!r} and this tove reads {FORMAT}")
    if not (place / TENSORS).is_file() or sha256(place / TENSORS) != digest:
        raise CheckpointError(f"{place / TENSORS} is missing, truncated or altered")
    return step, origin


def _restore(
    place: Path,
    tensors: dict[str, Tensor],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
) -> None:
    trained = _trained(module)
    saved = {name.removeprefix("value."): t.shape for name, t in tensors.items() if name.startswith("value.")}
    wanted = {name: parameter.shape for name, parameter in trained.items()}
    if saved != wanted:
        odd = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
        raise CheckpointError(
            f"{place} belongs to another model: {len(odd)} trained tensors differ, first {odd[0]}; "
            "resume with the configuration the run was started with"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(laid_out(tensors.pop(f"value.{name}"), parameter))
    if average is not None:  # of a state without averages: they begin here, not with what was never trained
        average |= {name: begun(trained[name]) for name in average}
    # Steps are counted where the parameters are if they are fused, else on the CPU.
    fused = bool(optimizer.defaults.get("fused"))
    for full, value in tensors.items():
        key, _, name = full.partition(".")
        if key != "average":
            parameter = trained[name]
            counts = value.to(parameter.device) if fused else value
            optimizer.state[parameter][key] = laid_out(value, parameter) if value.dim() else counts
        elif average is not None:
            average[name] = laid_out(value, trained[name])


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _parts(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of a state by name, as this process holds them, in the same order in every process."""
    for name, parameter in _trained(module).items():
        yield f"value.{name}", parameter.detach()
        for key, value in sorted(optimizer.state.get(parameter, {}).items()):
            yield f"{key}.{name}", torch.as_tensor(value)
        if name in average:
            yield f"average.{name}", average[name]
    for name, value in statistics.items():
        yield f"{STATISTICS}.{name}", value


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
