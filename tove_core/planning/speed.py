"""How fast a run's own parts are on a device, timed with random weights; and the hours that follow for the run."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tove_core import plugins
from tove_core.builder import DTYPES
from tove_core.config import ExpertConfig, RunConfig
from tove_core.errors import ConfigError
from tove_core.hub.load import load_expert
from tove_core.hub.microbatch import free_memory
from tove_core.hub.placement import Placement, usable_device
from tove_core.planning.figures import PARTIAL, Figure, Part, Plan
from tove_core.planning.measure import tensor_bytes
from tove_core.planning.run_figures import THOUSAND, Hours, RunPlan, Timing
from tove_core.planning.step import CLIP, Step, sample_flops
from tove_core.tower.load import load_tower
from tove_core.training.optimise import adamw

SECONDS = 1.0
"""How long each part is timed, and about how long one call may take."""
GROWTH = 2
"""How many times as many samples are tried next."""
CALLS = 3
BATCH = 64
"""Images at a time when features are computed once: as `tove cache build` and training take them."""
FREE = 0.8
"""Share of the free memory that a part may be estimated to want."""

STEP = "training step"
"""The name of fusion and language model, forward, backward and optimiser."""

Call = Callable[[], object]
Make = Callable[[int], Call]
"""Gives, for a number of samples, what is timed."""


def given(plan: RunPlan, tflops: float) -> Hours:
    """Return the hours at a speed that somebody measured.

    Raises:
        ConfigError: the speed is not above 0.
    """
    if not 0 < tflops < float("inf"):
        raise ConfigError(f"--tflops {tflops:g} was given; give the TFLOP/s that a machine sustained, above 0")
    speed = tflops * 1e12
    frozen, training = (_at(figure, speed) for figure in (plan.frozen, plan.training))
    return Hours(frozen, training, f"{tflops:g} TFLOP/s, given with --tflops, not measured here")


def measured(config: RunConfig, made: Plan, plan: RunPlan, step: Step | None, device: str | None = None) -> Hours:
    """Time the parts that fit and return the hours of the run; a part that was not timed gets the speed of the others.

    Args:
        step: the run's trained parts on meta; they are taken to the device.

    Raises:
        ConfigError: there is no such device, it holds no values, or no part could be timed.
    """
    place = usable_device(device or "cpu", "--measure: device")
    subjects = _subjects(config, made, plan, step, place)
    timings: dict[str, Timing] = {}
    untimed: dict[str, str] = {}
    for one in subjects:
        try:
            timings[one.name] = _timed(one, min(one.limit, _fitting(one.part, made, place)), place)
        except Exception as error:  # whatever a plugin, a library or a full memory does
            untimed[one.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        gc.collect()
    if not timings:
        reasons = "; ".join(f"{name}: {why}" for name, why in untimed.items())
        raise ConfigError(f"no part could be timed ({reasons}); give --tflops, measured by other means")
    speed = sum(one.flops or 0 for one in timings.values()) / sum(one.seconds for one in timings.values())
    how = f"timed on {_called(place)}, training in {config.training.precision}, random weights"
    return Hours(
        _frozen_seconds(config, plan, subjects, timings, speed),
        _step_seconds(plan, timings.get(STEP), speed),
        how,
        tuple(timings.values()),
        tuple(
            f"{name}, taken to be as fast as the others where its operations are known: {why}"
            for name, why in untimed.items()
        ),
    )


@dataclass(frozen=True)
class _Subject:
    """A part that is to be timed."""

    name: str
    part: Part
    flops: int | None
    """Of one sample; None: unknown."""
    limit: int
    """Samples at a time, at most."""
    make: Callable[[], Make]
    """Builds it."""


def _subjects(config: RunConfig, made: Plan, plan: RunPlan, step: Step | None, place: torch.device) -> list[_Subject]:
    share = max(1, config.training.batch_size // config.training.accumulate)
    limit = share * plan.data.per_sample if plan.repeated else BATCH
    parts = {(part.part, part.name): part for part in made.parts}
    clip = parts[CLIP, config.model.clip.name]
    found = [_Subject(CLIP, clip, clip.flops.value, limit, lambda: _clip(config, place))]
    for wanted in config.model.experts:
        part = parts["expert", wanted.key]
        known = None if part.flops.how.startswith(PARTIAL) else part.flops.value
        found.append(_Subject(wanted.key, part, known, limit, partial(_expert, wanted, place)))
    if step is not None and plan.tokens is not None:
        (part,) = (part for part in made.parts if part.part == "decoder")
        # What is timed is not held in few bits, whatever `decoder.quantize` says: random weights are not quantised.
        part = replace(part, weights=Figure(tensor_bytes(step.decoder), "as it is timed"))
        flops, _ = sample_flops(step, plan.tokens, plan.data)
        found.append(_Subject(STEP, part, flops, share, partial(_step, config, step, plan.tokens, plan, place)))
    return found


def _frozen_seconds(
    config: RunConfig, plan: RunPlan, subjects: list[_Subject], timings: dict[str, Timing], speed: float
) -> Figure:
    """Return the seconds of CLIP and experts, by image, so that what no one could count is in it where it was timed."""
    images = plan.steps * plan.batch_size * plan.data.per_sample if plan.repeated else plan.data.images or THOUSAND
    seconds, unknown = 0.0, False
    for one in subjects:
        if one.name == STEP:
            continue
        if one.name in timings:
            seconds += images * timings[one.name].seconds / timings[one.name].samples
        elif one.flops is None or not speed:
            unknown = True
        else:
            seconds += images * one.flops / speed
    return Figure.about(seconds, f"{PARTIAL}, for parts could not be timed" if unknown else "timed, for each image")


def _step_seconds(plan: RunPlan, timing: Timing | None, speed: float) -> Figure:
    own = timing.flops / timing.seconds if timing is not None and timing.flops else speed
    return _at(plan.training, own)


def _clip(config: RunConfig, place: torch.device) -> Make:
    tower = load_tower(config.model.clip, weights="random", device=place)
    return lambda count: _frozen_call(tower, torch.randn(count, 3, *tower.input.size, device=place))


def _expert(wanted: ExpertConfig, place: torch.device) -> Make:
    spec = plugins.registry().resolve(wanted.name).spec
    placed = Placement.of(wanted, place)
    expert, _ = load_expert(spec, name=wanted.key, weights="random", dtype=DTYPES[wanted.dtype], placement=placed)
    return lambda count: _frozen_call(expert, torch.randn(count, 3, *expert.spec.input.size, device=placed.device))


def _frozen_call(module: torch.nn.Module, pixels: Tensor) -> Call:
    def call() -> object:
        with torch.no_grad():
            return module(pixels)

    return call


def _step(config: RunConfig, step: Step, tokens: int, plan: RunPlan, place: torch.device) -> Make:
    step.fill(place)
    optimizer = adamw(step.trained)
    bf16 = config.training.precision == "bf16"

    def make(count: int) -> Call:
        features = step.features(count, tokens, place)

        def call() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(place.type, torch.bfloat16, enabled=bf16):
                loss = step(features, plan.data.text, plan.data.answer)
            loss.backward()
            optimizer.step()

        return call

    return make


def _timed(subject: _Subject, limit: int, place: torch.device) -> Timing:
    """Time a part: one sample first, then more, `limit` at most, while a call stays below `SECONDS`."""
    if limit < 1:
        raise MemoryError("it is estimated to want more memory than is free")
    make, count = subject.make(), 1
    while True:
        call = make(count)
        _seconds(call, place)  # what a first call sets up is not timed
        once = _seconds(call, place)
        if count == limit or once * GROWTH > SECONDS:
            break
        count = min(limit, count * GROWTH)
    found: list[float] = []
    while len(found) < CALLS or sum(found) < SECONDS:
        found.append(_seconds(call, place))
    flops = None if subject.flops is None else subject.flops * count
    return Timing(subject.name, count, statistics.median(found), flops)


def _seconds(call: Call, place: torch.device) -> float:
    _wait(place)
    began = time.perf_counter()
    call()
    _wait(place)
    return time.perf_counter() - began


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _fitting(part: Part, made: Plan, place: torch.device) -> int:
    """Return how many samples of a part fit into what is free; 0: not one."""
    free = FREE * _free(place) - (part.weights.value or 0) - (part.training.value or 0)
    each = (part.activations.value or 0) / made.batch
    return max(0, int(free / each)) if each else BATCH if free > 0 else 0


def _free(place: torch.device) -> int:
    if place.type == "cuda":
        return free_memory(place)
    import psutil  # accelerate brings it

    return psutil.virtual_memory().available


def _called(place: torch.device) -> str:
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """Return the name of the CPU; Linux alone tells it in full."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _at(figure: Figure, speed: float) -> Figure:
    if figure.value is None or not speed:
        return Figure.unknown(figure.how)
    how = f"{PARTIAL}, {figure.how}" if figure.how.startswith(PARTIAL) else "operations / speed"
    return Figure.about(figure.value / speed, how)
