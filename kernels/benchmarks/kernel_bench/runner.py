"""Run workloads: check each form against float64, then time it, and turn what is seen into rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from kernel_bench import timing
from kernel_bench.table import Origin, Row
from kernel_bench.verify import limit, results, worst_error
from kernel_bench.workload import Form, Problem, Workload


@dataclass(frozen=True)
class Run:
    """What holds for a whole run: the device, its copy rate in bytes per second, its origin and when it must end."""

    device: torch.device
    copy: float
    origin: Origin
    deadline: float

    def over(self) -> bool:
        """Tell whether the time is up; `time.monotonic` tells it."""
        return time.monotonic() > self.deadline


def measure(workload: Workload, run: Run, rounds: int = 40) -> Iterator[Row]:
    """Yield a row for every form and direction, on a GPU under graphs too where the shape is small."""
    try:
        problems = _problems(workload, run)
    except Exception as problem:  # out of memory: what was measured before, and the other workloads, stay
        seen = {name: _Seen(f"failed: {_said(problem)}") for name in workload.forms}
        for direction in workload.bytes:
            yield from _rows(workload, seen, run, "eager", direction)
        return
    for direction in workload.bytes:
        modes = [("eager", direction)]
        if run.device.type == "cuda" and workload.small:
            # Backward alone is not captured: what runs before it would be outside the graph.
            modes.append(("graph", direction if direction == "forward" else "both"))
        for mode, measured in modes:
            found = _measure(workload, problems, run, mode, measured, rounds)
            yield from _rows(workload, found, run, mode, measured)
    torch.compiler.reset()


@dataclass(frozen=True)
class _Seen:
    status: str
    error: float | None = None
    times: timing.Times | None = None


def _problems(workload: Workload, run: Run) -> list[Problem]:
    first = workload.make(0, run.device)
    if run.device.type == "cuda":
        properties = torch.cuda.get_device_properties(run.device)
        cache, memory = properties.L2_cache_size, properties.total_memory
    else:
        cache, memory = timing.cpu_cache(), timing.CPU_MEMORY
    # A quarter of the memory for inputs: results, gradients and float64 copies need the rest.
    count = timing.rotations(first.bytes, cache, memory // 4)
    return [first, *(workload.make(seed, run.device) for seed in range(1, count))]


def _measure(
    workload: Workload, problems: list[Problem], run: Run, mode: str, direction: str, rounds: int
) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}
    calls: dict[str, list[timing.Call]] = {}
    for name, form in workload.forms.items():
        if mode == "graph" and not form.graphs:
            continue
        if run.over():
            seen[name] = _Seen("skipped: the time is up; give --budget-seconds more")
            continue
        try:
            error = worst_error(workload, form, problems[0], "forward" if direction == "forward" else "backward")
        except Exception as problem:  # a form that fails must not hide the others
            seen[name] = _Seen(f"failed: {_said(problem)}")
            continue
        if not error <= limit(workload, form):
            seen[name] = _Seen(f"refused: error {error:.1e}, at most {limit(workload, form):.1e} is timed", error)
            continue
        try:
            made = [_call(form, problem, direction) for problem in problems]
            if run.device.type != "cuda":
                calls[name], times = made, None
            else:
                times = timing.graph_times(made) if mode == "graph" else timing.cuda_times(made)
        except Exception as problem:  # Triton's own errors are no RuntimeErrors
            seen[name] = _Seen(f"failed: {_said(problem)}", error)
        else:
            seen[name] = _Seen("ok", error, times)
        made = []  # lets go of the graphs that backward calls hold
    if run.device.type != "cuda":
        for name, times in timing.cpu_times(calls, rounds).items():
            seen[name] = _Seen("ok", seen[name].error, times)
    return seen | {name: _Seen(f"absent: {why}") for name, why in workload.absent.items()}


def _said(problem: Exception) -> str:
    """Return an error's class and the first line of what it says."""
    return f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:120]}"


def _call(form: Form, problem: Problem, direction: str) -> Callable[[], object]:
    if direction != "backward":
        return lambda: results(form.compute, problem, direction)
    out = form.compute(problem.leaves, problem.fixed)
    return lambda: torch.autograd.grad(out, problem.leaves, problem.grad, retain_graph=True, allow_unused=True)


def _rows(workload: Workload, seen: dict[str, _Seen], run: Run, mode: str, direction: str) -> Iterator[Row]:
    needed = sum(workload.bytes.values()) if direction == "both" else workload.bytes[direction]
    on_gpu = run.device.type == "cuda"
    base = seen[workload.baseline].times if workload.baseline in seen else None
    for name, one in seen.items():
        times = one.times
        # Others use the CPU too, and slow down the median more than the least.
        mine, theirs = (t and (t.p50 if on_gpu else t.least) for t in (times, base))
        rate = needed / (1e-3 * mine) if mine else None
        yield Row(
            workload.operator, workload.shape, str(workload.dtype).removeprefix("torch."), direction, mode, name,
            one.status, one.error, needed,
            times and times.least, times and times.p20, times and times.p50, times and times.p80,
            times and times.samples, rate and rate / 1e9, rate and rate / run.copy,
            theirs / mine if mine and theirs else None, **asdict(run.origin),
        )  # fmt: skip
