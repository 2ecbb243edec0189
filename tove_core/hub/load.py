"""Builds one expert from its spec: architecture, weights, freezing, precision and place."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tove_core.errors import PluginError, WeightsError
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.isolation import isolated
from tove_core.hub.lock import Lock
from tove_core.hub.parts import digest_of, locate_files, read_files
from tove_core.hub.placement import PlacedExpert, Placement
from tove_core.hub.state import load_tensors, tensors_of
from tove_core.hub.weights import WeightsSource, read_safetensors
from tove_core.spec import BuildContext, ExpertSpec


def load_expert(
    spec: ExpertSpec,
    *,
    name: str,
    weights: WeightsSource = "pinned",
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    expected_sha256: str | None = None,
    cure: str | None = None,
    state: Path | None = None,
    lock: Lock | None = None,
    placement: Placement | None = None,
) -> tuple[FrozenExpert, str | None]:
    """Return a frozen expert and the sha256 of the weights that were loaded (None: none were).

    Args:
        spec: what the expert declares; its default variant is applied if none was.
        name: the name under which the model knows it.
        weights: see `tove_core.hub.parts.locate_files`.
        device: where it is put. None: it stays on the CPU.
        dtype: precision it computes in.
        seed: of random weights, which depend on it and on the expert's own name only.
        expected_sha256: the hash a checkpoint was made with; it takes the place of the spec's and the lock file's.
        cure: see `tove_core.hub.weights.locate`.
        state: a file with the built module's own state, as a checkpoint holds it: loaded as it is, without conversion,
            in place of whatever `weights` says.
        lock: the lock file; None: the user's.
        placement: how it runs; its device takes the place of `device`. None: plainly.

    Raises:
        PluginError: the factory or the conversion cannot be imported, fails, or gives something else.
        WeightsError: the weights are not there, not as expected, or do not fit the architecture.
    """
    spec = spec.variant()
    files = {"": state} if state else locate_files(spec, weights, expected_sha256=expected_sha256, cure=cure, lock=lock)
    with isolated(spec.name, seed):
        factory = import_function(spec.factory, name)
    # A fresh seed: what a first import draws must not change the weights that follow.
    with isolated(spec.name, seed):
        module = _build(factory, spec, name)
    # Reading and copying weights is none of the author's doing, and takes long.
    if state is not None:
        _load(module, read_safetensors(state), name)
    elif files:
        _load(module, _convert(spec, name, read_files(files), seed), name)
    frozen = FrozenExpert(module, spec, name).to(dtype=dtype)
    if placement is None:
        return frozen.to(device=device), digest_of(files)
    return PlacedExpert(module, spec, name, placement), digest_of(files)


def import_function(path: str, expert: str) -> Callable[..., Any]:
    """Return the function that `module:function` names.

    Raises:
        PluginError: the module cannot be imported or has no such function; the cause is chained.
    """
    module, _, attribute = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever a plugin's module does when it is imported
        raise PluginError(
            f"expert '{expert}': {path} cannot be imported ({type(error).__name__}: {error}); "
            f"repair or reinstall its plugin"
        ) from error
    if not callable(function):
        raise PluginError(f"expert '{expert}': {path} is {type(function).__name__}, not a function; tell its author")
    return function


def _build(factory: Callable[..., Any], spec: ExpertSpec, name: str) -> nn.Module:
    try:
        module = factory(BuildContext(spec, MappingProxyType(dict(spec.options))))
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"expert '{name}': {spec.factory} failed ({type(error).__name__}: {error}); repair or reinstall its plugin"
        ) from error
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"expert '{name}': {spec.factory} returned {module!r:.80}; it must return a torch.nn.Module instance"
        )
    on_meta = [key for key, tensor in tensors_of(module).items() if tensor.is_meta]
    if on_meta:
        raise PluginError(f"expert '{name}': {spec.factory} left {on_meta[0]} on meta; it must build on the CPU")
    return module


def _convert(spec: ExpertSpec, name: str, state: dict[str, Tensor], seed: int) -> Mapping[str, Tensor]:
    if spec.convert is None:
        return state
    with isolated(spec.name, seed):
        convert = import_function(spec.convert, name)
        try:
            converted = convert(state)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"expert '{name}': {spec.convert} failed ({type(error).__name__}: {error}); "
                "its weights may have changed"
            ) from error
    if not isinstance(converted, Mapping) or not all(isinstance(value, Tensor) for value in converted.values()):
        raise PluginError(f"expert '{name}': {spec.convert} must return a mapping of name to tensor; tell its author")
    return converted


def _load(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    try:
        load_tensors(module, state)
    except RuntimeError as error:
        raise WeightsError(
            f"weights of expert '{name}' do not fit its architecture: {_differences(module, state, error)}; "
            f"use the weights its spec names, or give it a convert function"
        ) from error


def _differences(module: nn.Module, state: Mapping[str, Tensor], error: RuntimeError) -> str:
    said = str(error)  # a module may rename or leave out keys by itself: what torch names is what differs after that
    wanted = {key: tuple(value.shape) for key, value in tensors_of(module).items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    shapes = [
        f"{key} {list(given[key])} for {list(wanted[key])}"
        for key in wanted
        if given.get(key, wanted[key]) != wanted[key]
    ]
    kinds = {
        "missing": [key for key in wanted if key not in given and f'"{key}"' in said],
        "unexpected": [key for key in given if key not in wanted and f'"{key}"' in said],
        "of another shape": shapes,
    }
    parts = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in kinds.items() if keys]
    return ", ".join(parts) or " ".join(str(error).split())[:200]


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
