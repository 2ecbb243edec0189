"""Builds the modules that checks look at, each once: the full size on `meta`, a small or full one that computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from tove_core.errors import ContractError, PluginError
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.isolation import isolated
from tove_core.hub.load import import_function, load_expert
from tove_core.hub.process_state import changes, process_state
from tove_core.hub.regions import RegionBatch
from tove_core.spec import BuildContext, ExpertSpec, Grid, Input, Output
from tove_core.testing.definition import ForwardFailed
from tove_core.testing.images import pixels
from tove_core.testing.subject import Subject
from tove_core.testing.watch import generators, poisoned, refused_network, undone

Outputs = dict[str, Tensor | RegionBatch]
T = TypeVar("T")


class Bench:
    """The modules of one subject, built when first asked for; a failure is kept and told to everyone who asks."""

    def __init__(self, subject: Subject) -> None:
        """Remember the subject; nothing is built yet."""
        self.subject = subject
        self.tried: list[str] = []
        """What the factory tried on the network, known after `expert`."""
        self.changed: list[str] = []
        """Which global settings building and the first forward pass changed, known after `expert` and `outputs`."""
        self.given: Tensor | None = None
        """The tensor that was handed to `expert` for `outputs`, as the expert left it."""
        self._kept: dict[str, tuple[Any, Exception | None]] = {}

    @property
    def size(self) -> str:
        """Say which module computes: the tiny one, or the full one."""
        return "tiny" if self.subject.spec.tiny is not None else "full size"

    @property
    def meta(self) -> FrozenExpert:
        """The architecture at full size on `meta`, frozen; it has shapes and no values."""
        return self._once("meta", self._build_meta)

    @property
    def expert(self) -> FrozenExpert:
        """The expert with random weights on the CPU, built without network, under its `tiny` options if it has any."""
        return self._once("expert", self._build_watched)

    @property
    def full(self) -> FrozenExpert:
        """The expert with random weights on the CPU at full size."""
        if self.subject.spec.tiny is None:
            return self.expert
        return self._once("full", lambda: load(self.subject, self.subject.spec))

    @property
    def poisoned(self) -> FrozenExpert:
        """The expert built a second time, from the same seed, where memory that nobody writes to holds NaN."""
        return self._once("poisoned", self._build_poisoned)

    @property
    def images(self) -> Tensor:
        """Two images [2, 3, H, W] as the expert wants them."""
        return self._once("images", lambda: pixels(self.input, 2))

    @property
    def outputs(self) -> Outputs:
        """What the expert gives for `images`."""
        return self._once("outputs", self._run_watched)

    @property
    def alone(self) -> Outputs:
        """What the expert gives for the second of `images` by itself."""
        return self._once("alone", lambda: run(self.expert, self.images[1:].clone()))

    @property
    def input(self) -> Input:
        """The input of the module that computes."""
        return small(self.subject.spec).input

    def _once(self, key: str, make: Callable[[], T]) -> T:
        if key not in self._kept:
            try:
                self._kept[key] = (make(), None)
            except Exception as error:
                self._kept[key] = (None, error)
        value, error = self._kept[key]
        if error is not None:
            raise error
        return cast(T, value)

    def _build_meta(self) -> FrozenExpert:
        spec = self.subject.spec
        with undone(), _said_once(), isolated(spec.name, 0):
            factory = import_function(spec.factory, self.subject.name)
            with torch.device("meta"):
                module = factory(BuildContext(spec, MappingProxyType(dict(spec.options))))
        if not isinstance(module, nn.Module):
            raise PluginError(f"{spec.factory} returned {type(module).__name__}; it must return a torch.nn.Module")
        return FrozenExpert(module, spec, self.subject.name)

    def _build_watched(self) -> FrozenExpert:
        spec = small(self.subject.spec)
        import_function(spec.factory, self.subject.name)  # what importing a library changes is not the factory's doing
        with refused_network() as self.tried, undone(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RuntimeWarning)
            before = process_state()
            expert, _ = load_expert(spec, name=self.subject.name, weights="random")
            self._note_changes("the factory", before, process_state())
        # `isolated` puts some settings back by itself, and says so.
        told = [str(one.message) for one in said if "the factory of expert" in str(one.message)]
        self.changed += [f"the factory changed {message.partition('changed ')[2]}" for message in told]
        return fitted(expert, self.images)

    def _build_poisoned(self) -> FrozenExpert:
        with poisoned():
            return load(self.subject, small(self.subject.spec))

    def _run_watched(self) -> Outputs:
        expert, images = self.expert, self.images
        with undone():
            before = process_state() | generators()
            self.given = images.clone()
            outputs = run(expert, self.given)
            self._note_changes("forward", before, process_state() | generators())
        return outputs

    def _note_changes(self, who: str, before: Mapping[str, object], after: Mapping[str, object]) -> None:
        self.changed += [f"{who} changed {key}" for key in changes(before, after)]

    def fault(self) -> Exception | None:
        """Return what keeps the expert from being run as it is declared; None: nothing does.

        A variant that is not built for its checks is built here only where `meta` does not settle it.
        """
        if not self.subject.builds:
            with suppress(Exception):  # meta has no values; the module that has them decides
                try:
                    run(self.meta, torch.empty(2, 3, *self.subject.spec.input.size, device="meta"))
                except ContractError as error:
                    return error
                return None
        try:
            _ = self.outputs
        except Exception as error:  # a plugin may raise anything
            return error
        return None


@lru_cache(maxsize=1)
def bench(subject: Subject) -> Bench:
    """Return the bench of a subject; only the latest is kept, since a full-size one holds gigabytes."""
    return Bench(subject)


def small(spec: ExpertSpec) -> ExpertSpec:
    """Return the spec with its `tiny` options and input applied, or as it is where it has none."""
    if spec.tiny is None:
        return spec
    changed = {"options": {**spec.options, **spec.tiny}, "input": spec.tiny_input or spec.input}
    return spec.model_copy(update=changed)


def load(subject: Subject, spec: ExpertSpec, seed: int = 0) -> FrozenExpert:
    """Build `spec` with random weights as a model would.

    Raises:
        PluginError: the factory fails or gives something else.
    """
    with undone(), _said_once():
        return load_expert(spec, name=subject.name, weights="random", seed=seed)[0]


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep back the warnings that `no-global-state` reports."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the factory of expert", RuntimeWarning)
        yield


def run(expert: FrozenExpert, images: Tensor) -> Outputs:
    """Return an expert's outputs for normalised images [B, 3, H, W], in memory that no later call writes to.

    Raises:
        ContractError: they are not what the spec promises.
        ForwardFailed: the forward pass raises something else.
    """
    try:
        return {name: _own(value) for name, value in expert(images).items()}
    except ContractError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, PluginError) and error.__cause__ else error
        raise ForwardFailed(
            f"forward raised {type(cause).__name__} for pixels {list(images.shape)}: {' '.join(str(cause).split())}"
        ) from error


def _own(value: Tensor | RegionBatch) -> Tensor | RegionBatch:
    if isinstance(value, Tensor):
        return value.clone()
    return replace(value, **{part: t.clone() for part, t in vars(value).items() if isinstance(t, Tensor)})


def fitted(expert: FrozenExpert, images: Tensor) -> FrozenExpert:
    """Return a tiny expert under a spec with the channels it really has; an expert without `tiny` as it is."""
    spec = expert.spec
    if spec.tiny is None:
        return expert
    found = None
    with torch.no_grad(), undone(), suppress(Exception):
        found = expert.module(images[:1].clone())
    if not isinstance(found, Mapping):
        return expert  # whoever runs it is told what is wrong
    outputs = {key: _measured(output, found.get(key)) for key, output in spec.outputs.items()}
    return FrozenExpert(expert.module, spec.model_copy(update={"outputs": outputs}), expert.name)


def _measured(output: Output, found: object) -> Output:
    tensor = found.features if isinstance(found, RegionBatch) else found
    if not isinstance(tensor, Tensor) or tensor.ndim < 2:
        return output
    channels = tensor.shape[1] if isinstance(output, Grid) else tensor.shape[-1]
    return output.model_copy(update={"channels": channels})
