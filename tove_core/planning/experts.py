"""The row of an expert: what its spec declares, and what its architecture on meta says."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import nn

from tove_core.config import ExpertConfig
from tove_core.errors import PluginError, ToveError
from tove_core.hub.download import on_disk
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.isolation import isolated
from tove_core.hub.load import import_function
from tove_core.licenses import shown
from tove_core.planning.figures import NOTHING, PARTIAL, Figure, Part
from tove_core.planning.measure import Run, parameters, run, tensor_bytes
from tove_core.plugins import Resolved
from tove_core.spec import BuildContext, ExpertSpec, Weights

ON_META = "measured on meta"
DECLARED = "declared by its spec"
FLOAT32 = 4
"""Bytes per stored parameter where nothing says otherwise."""


def expert_part(wanted: ExpertConfig, found: Resolved, batch: int) -> Part:
    """Return the row of one expert for batches of `batch` images; nothing is downloaded."""
    spec, weights = found.spec, found.spec.weights
    batch = min(batch, wanted.micro_batch) if isinstance(wanted.micro_batch, int) else batch
    counted, held, ran = _measured(spec, wanted, batch)
    if counted.value is None and spec.cost is not None:
        width = getattr(torch, wanted.dtype).itemsize
        held = Figure.about(spec.cost.params * width, f"parameters {DECLARED}")
        counted = Figure(spec.cost.params, DECLARED)
    license, commercial = shown(weights)
    flops = _of_run(ran, lambda done: Figure(done.flops // batch, ON_META))
    if spec.cost is not None and spec.cost.flops is not None:
        flops = Figure(spec.cost.flops, DECLARED)
    return Part(
        part="expert",
        name=wanted.key,
        params=counted,
        download=_download(weights, counted),
        weights=held,
        activations=_of_run(ran, lambda done: Figure.about(done.peak, ON_META)),
        flops=flops,
        license=license,
        commercial=commercial,
        stored=weights is not None,
        gated=tuple(file.repo for file in weights.files().values() if file.gated and file.repo) if weights else (),
        device=wanted.device,
        offloaded=wanted.offload,
    )


def outline(spec: ExpertSpec, name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build an expert's architecture on meta.

    Raises:
        PluginError: its factory cannot be imported, fails, or gives something else.
    """
    # Twice, as in `load_expert`: an import that sets global state must not do so on meta.
    with isolated(spec.name, 0):
        factory = import_function(spec.factory, name)
    try:
        with isolated(spec.name, 0), torch.device("meta"):
            module = factory(BuildContext(spec, MappingProxyType(dict(spec.options))))
    except (Exception, SystemExit) as error:  # whatever a plugin does
        raise PluginError(f"{spec.factory} cannot build on meta ({type(error).__name__}: {error})") from error
    if not isinstance(module, nn.Module):
        raise PluginError(f"{spec.factory} returned {type(module).__name__}, not a torch.nn.Module")
    # Frozen, as the hub freezes it: torch's counter expects a gradient of any output that stands for a parameter.
    return FrozenExpert(module, spec, spec.name).to(device="meta", dtype=dtype).module


def _measured(spec: ExpertSpec, wanted: ExpertConfig, batch: int) -> tuple[Figure, Figure, Run | str]:
    """Return parameters, bytes, and what a run takes or why that is unknown."""
    dtype = getattr(torch, wanted.dtype)
    try:
        module = outline(spec, wanted.key, dtype)
    except ToveError as error:
        why = " ".join(str(error).split())
        return Figure.unknown(why), Figure.unknown(why), why
    counted = Figure(parameters(module), ON_META)
    held = Figure(tensor_bytes(module), f"in {wanted.dtype}")
    pixels = torch.empty(batch, 3, *spec.input.size, dtype=dtype, device="meta")
    return counted, held, run(lambda: module(pixels), partial=True)


def _of_run(ran: Run | str, figure: Callable[[Run], Figure]) -> Figure:
    """Return a figure of a run: whole, up to where it stopped, or unknown for the reason that stands in its place."""
    if isinstance(ran, str):
        return Figure.unknown(ran)
    found = figure(ran)
    if ran.stopped is None:
        return found
    reason = f"its forward does not run on meta to the end ({ran.stopped})"
    return Figure.unknown(reason) if not found.value else Figure.about(found.value, f"{PARTIAL}: {reason}")


def _download(weights: Weights | None, counted: Figure) -> Figure:
    """Return what is still to be fetched; files of no declared size share what the parameters leave for them."""
    files = list(weights.files().values()) if weights else []
    paths = [(file, on_disk(file.repo, file.file, file.revision)) for file in files if file.repo is not None]
    missing = [file for file, path in paths if path is None]
    if not missing:
        return Figure(0, "in the local cache" if paths else "on disk, in a package or folder") if files else NOTHING
    declared = sum(file.size or 0 for file in missing)
    if all(file.size is not None for file in missing):
        return Figure(declared, DECLARED)
    if counted.value is None:
        return Figure.unknown(counted.how)
    there = sum(path.stat().st_size for _, path in paths if path is not None)
    return Figure.about(max(declared, FLOAT32 * counted.value - there), "parameters x 4 bytes")
