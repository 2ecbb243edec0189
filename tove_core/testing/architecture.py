"""Checks of the full-size architecture, built on `meta`: what it counts, what it costs, what it gives."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tove_core.errors import ContractError
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.regions import RegionBatch
from tove_core.operations import counted
from tove_core.spec import Grid, Input
from tove_core.testing.bench import Outputs, bench, run
from tove_core.testing.definition import CheckFailed, ForwardFailed, NoMeta, NotApplicable, NotRun, defines
from tove_core.testing.images import pixels
from tove_core.testing.subject import Subject
from tove_core.testing.watch import undone


@defines(
    "builds-on-meta",
    "architecture",
    summary="builds under `torch.device('meta')`, where it takes no memory",
    cause="The factory or the library behind it reads a value while building (`.item()`, `.tolist()`, numpy), or asks "
    "for the CPU by name.",
    cure="Compute such values with Python or with `device='cpu'` for that one tensor; leave the device of parameters "
    "alone.",
)
def builds_on_meta(subject: Subject) -> str:
    """Build on meta and look where the parameters are."""
    try:
        module = bench(subject).meta.module
    except Exception as error:
        if broken := _breaks_anywhere(subject):
            raise NotRun(_line(broken)) from error
        raise CheckFailed(f"building on meta raised {type(error).__name__}: {_line(error)}") from error
    elsewhere = [name for name, parameter in module.named_parameters() if not parameter.is_meta]
    if elsewhere:
        raise CheckFailed(f"parameter {elsewhere[0]} was made on the CPU (one of {len(elsewhere)})")
    return ""


@defines(
    "params-exact",
    "architecture",
    summary="has exactly the parameters that `cost.params` states",
    cause="The figure was taken from a paper or from a model with another head, or the architecture has changed.",
    cure="Copy the measured figure.",
)
def params_exact(subject: Subject) -> str:
    """Count the parameters of the architecture on meta."""
    count = sum(parameter.numel() for parameter in _meta(subject).parameters())
    if subject.spec.cost is None:
        raise NotApplicable(f"no cost is declared; measured: cost=Cost(params={count:_})")
    if count != subject.spec.cost.params:
        raise CheckFailed(f"cost.params is {subject.spec.cost.params:_}, the module has params={count:_}")
    return f"params={count:_}"


@defines(
    "flops-within-5-percent",
    "architecture",
    summary="costs what `cost.flops` states, within 5 per cent",
    cause="The figure counts multiply-adds as one, is for another input size, or leaves attention out.",
    cure="Copy the measured figure: multiplications and additions of matrix products, convolutions and attention for "
    "one image at `input.size`.",
)
def flops_close(subject: Subject) -> str:
    """Count one image's floating point operations, on the CPU only where meta does not settle it."""
    declared = subject.spec.cost.flops if subject.spec.cost else None
    _, both, failed = _pair(subject)
    if declared is not None and failed is None and math.isclose(both / 2, declared, rel_tol=0.05):
        return f"flops={both // 2:_}"
    flops, stopped = _count(subject)
    if declared is None:
        if stopped is not None:
            raise NotApplicable(f"flops are not declared, and meta has none of the values it needs: {_line(stopped)}")
        params = sum(parameter.numel() for parameter in _meta(subject).parameters())
        raise NotApplicable(f"flops are not declared; measured: cost=Cost(params={params:_}, flops={flops:_})")
    if math.isclose(flops, declared, rel_tol=0.05):
        return f"flops={flops:_}" + (", up to the first step that needs values" if stopped else "")
    if stopped is not None:
        with counted() as counter:
            run(bench(subject).full, pixels(subject.spec.input, 1))
        flops = counter.get_total_flops()
    if not math.isclose(flops, declared, rel_tol=0.05):
        raise CheckFailed(f"cost.flops is {declared:_}, measured flops={flops:_}")
    return f"flops={flops:_}"


@defines(
    "contract-shapes",
    "architecture",
    summary="gives exactly the outputs its spec promises, in their shapes",
    cause="An output's `channels` or `stride` is another than the module's, class tokens are left in the map, "
    "`forward` returns a tensor instead of a mapping or whole numbers such as labels, or it raises an error, as where "
    "it asks for a precision by name and the weights have another.",
    cure="Compare the two shapes in the message; return `{name: tensor}` with grids as [B, C, H / stride, W / stride]. "
    "Leave the precision of weights and pixels to the hub, or repair what the message names.",
    owns=("outputs", "forward"),
)
def contract_shapes(subject: Subject) -> str:
    """Run two images through the full size on meta; where values are needed, through a module that has them."""
    given, _, error = _pair(subject)
    if isinstance(error, ContractError):
        raise error
    at = bench(subject)
    outputs = at.outputs if given is None else given
    where = f"{subject.spec.input.size[0]}x{subject.spec.input.size[1]}"
    if error is not None:
        where = f"{at.input.size[0]}x{at.input.size[1]}, {at.size}; not on meta, where {_line(error)}"
    if subject.spec.tiny is not None or subject.builds:
        _ = bench(subject).outputs  # the module that computes keeps its promises too: meta takes any kind of number
    shown = ", ".join(f"{key} {_shape(value)}" for key, value in outputs.items())
    return f"{shown} for {where}"


@defines(
    "contract-nonsquare",
    "architecture",
    summary="keeps its promise for other sizes where `input.dynamic` says so",
    cause="Height and width are swapped somewhere, a square is assumed (`int(math.sqrt(n))`), or position embeddings "
    "are not interpolated.",
    cure="Take height and width from the pixels, or leave `dynamic` out: the hub then always gives `input.size`.",
)
def contract_nonsquare(subject: Subject) -> str:
    """Run sizes that are higher and wider than the declared one."""
    input = subject.spec.input
    if not input.dynamic:
        raise NotApplicable("input.dynamic is false: it only ever sees input.size")
    strides = [output.stride for output in subject.spec.outputs.values() if isinstance(output, Grid)]
    step = math.lcm(input.patch or 1, *strides)
    sizes = _other_sizes(*input.size, step, subject.builds)
    for size in sizes:
        changed = input.model_copy(update={"size": size})
        try:
            _on_meta(subject, changed)
        except (ForwardFailed, NoMeta):  # meta has no values; a module that has them decides
            at = bench(subject)
            step_size = tuple(
                own + more - base for own, more, base in zip(at.input.size, size, input.size, strict=True)
            )
            run(at.expert, pixels(at.input.model_copy(update={"size": step_size}), 1))
    return ", ".join(f"{height}x{width}" for height, width in sizes)


def _other_sizes(height: int, width: int, step: int, thorough: bool) -> list[tuple[int, int]]:
    """Return sizes that are no squares; further variants, whose code is the same, get one for both directions."""
    if thorough:
        return [(height + step, width), (height, width + 2 * step)]
    both = (height + step, width + 2 * step)
    return [both if both[0] != both[1] else (height + 2 * step, width + step)]


@lru_cache(maxsize=1)
def _pair(subject: Subject) -> tuple[Outputs | None, int, Exception | None]:
    """Return what two images give on meta and what both cost, once for the checks that ask; or what went wrong."""
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            return _on_meta(subject, subject.spec.input), counter.get_total_flops(), None
    except (ContractError, ForwardFailed, NoMeta) as error:
        return None, counter.get_total_flops(), error


def _on_meta(subject: Subject, input: Input) -> Outputs:
    with undone():
        return run(_meta(subject), torch.empty(2, 3, *input.size, device="meta"))


def _meta(subject: Subject) -> FrozenExpert:
    try:
        return bench(subject).meta
    except ContractError:
        raise
    except Exception as error:
        raise NoMeta(f"it does not build on meta: {_line(error)}") from error


def _breaks_anywhere(subject: Subject) -> Exception | None:
    """Return why the factory fails on the CPU too; None: it does not, or a large variant would have to be built."""
    if not subject.builds and subject.spec.tiny is None:
        return None
    try:
        _ = bench(subject).expert
    except Exception as error:  # whatever a factory raises
        return error
    return None


def _count(subject: Subject) -> tuple[int, Exception | None]:
    """Return what one image costs on meta, and what stopped the count; selecting regions needs values, at the end."""
    flops, stopped = _counted_within(subject, nullcontext())
    if isinstance(stopped, ForwardFailed):
        # Told that it is being traced, transformers does not ask whether a mask is full, which has no answer on meta.
        traced, later = _counted_within(subject, FakeTensorMode(allow_non_fake_inputs=True))
        if traced > flops or later is None:
            return traced, later
    return flops, stopped


def _counted_within(subject: Subject, mode: AbstractContextManager[object]) -> tuple[int, Exception | None]:
    counter = FlopCounterMode(display=False)
    try:
        expert = copy.deepcopy(_meta(subject))  # what it keeps between calls is of no use to other checks
        with undone(), mode, counter:
            run(expert, torch.empty(1, 3, *subject.spec.input.size, device="meta"))
    except (ContractError, ForwardFailed, NoMeta) as error:
        return counter.get_total_flops(), error
    return counter.get_total_flops(), None


def _shape(value: torch.Tensor | RegionBatch) -> str:
    return "x".join(map(str, value.shape[1:])) if isinstance(value, torch.Tensor) else f"{value.boxes.shape[1]} regions"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
