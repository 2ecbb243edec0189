"""Measure calls: CUDA events over rotated inputs, CUDA-graph replay, and interleaved rounds on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]
LEAST, MOST = 20, 400  # samples
RUN = 5  # calls of a form one after the other, on a CPU
CPU_MEMORY = 8 * 2**30  # bytes that a benchmark on a CPU reckons with
UNTOLD = 64 * 2**20  # bytes of a CPU's last-level cache where the system does not tell


@dataclass(frozen=True)
class Times:
    """Quantiles of one call's time in milliseconds, over `samples` samples."""

    least: float
    p20: float
    p50: float
    p80: float
    samples: int


def quantiles(samples: Sequence[float]) -> Times:
    """Return the quantiles of samples in milliseconds, by linear interpolation."""
    values = torch.tensor(samples, dtype=torch.float64)
    p20, p50, p80 = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return Times(float(values.min()), p20, p50, p80, len(samples))


def rotations(inputs: int, cache: int, free: int) -> int:
    """Return how many sets of inputs to rotate, so that none is still in the cache when its turn comes again.

    Args:
        inputs: bytes of one set.
        cache: bytes of the last-level cache.
        free: bytes of memory that the sets may take together; two are made at least.
    """
    wanted = 1 + -(-2 * cache // max(inputs, 1))
    return max(2, min(wanted, 64, free // max(inputs, 1)))


def cpu_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Return the bytes of a CPU's largest cache, as Linux tells them; `UNTOLD` where it does not."""
    units = {"K": 2**10, "M": 2**20}
    told = [path.read_text(encoding="ascii").strip() for path in folder.glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in told), default=UNTOLD)


def cuda_times(calls: Sequence[Call], milliseconds: float = 120.0) -> Times:
    """Time calls on the GPU, one pair of events around each, after two rounds that are not counted.

    All are enqueued before any is waited for, so that the GPU is busy from event to event wherever a call takes longer
    than its launch; where it does not, what is measured is what launching costs, and graphs tell the rest.
    """
    # A form before may have been compiled for seconds, in which the GPU's clocks fell.
    _warm(lambda: [call() for call in calls], 0.1)
    start = time.perf_counter()
    for call in calls:
        call()
    torch.cuda.synchronize()
    each = 1000 * (time.perf_counter() - start) / len(calls)
    count = max(LEAST, min(MOST, int(milliseconds / max(each, 1e-3))))
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    # Results stay alive for a round, else all would be written to one place, which the cache might hold.
    kept: list[object] = [None] * len(calls)
    for index, (begin, end) in enumerate(marks):
        begin.record()
        kept[index % len(calls)] = calls[index % len(calls)]()
        end.record()
    torch.cuda.synchronize()
    return quantiles([begin.elapsed_time(end) for begin, end in marks])


def graph_times(calls: Sequence[Call]) -> Times:
    """Time calls as one captured CUDA graph: nothing of Python or of launching remains.

    Raises:
        RuntimeError: a call cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in [*calls, *calls]:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]
    whole = cuda_times([graph.replay])
    del kept
    share = 1 / len(calls)
    return Times(whole.least * share, whole.p20 * share, whole.p50 * share, whole.p80 * share, whole.samples)


def cpu_times(calls: Mapping[str, Sequence[Call]], rounds: int = 40) -> dict[str, Times]:
    """Time several forms on the CPU in interleaved rounds: what else the machine does then falls on all of them.

    A round calls each form RUN times, so that some of its calls fall into one turn of the scheduler. Each round begins
    with another form, so that none always follows the same one.
    """
    for some in calls.values():
        for call in some:
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds if names else 0):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            some = calls[name]
            for index in range(RUN):
                start = time.perf_counter()
                some[index % len(some)]()
                samples[name].append(1000 * (time.perf_counter() - start))
    return {name: quantiles(found) for name, found in samples.items()}


def copy_rate(device: torch.device) -> float:
    """Return the bytes per second, read and written, of copying 1 GiB (64 MiB on a CPU): the rate nothing exceeds."""
    size = (1024 if device.type == "cuda" else 64) * 1024 * 1024
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)

    def copy() -> object:
        return target.copy_(source)

    if device.type == "cuda":
        _warm(copy)
    times = cuda_times([copy]) if device.type == "cuda" else cpu_times({"copy": [copy]}, 15)["copy"]
    return 2 * size / (1e-3 * (times.p50 if device.type == "cuda" else times.least))


def _warm(call: Call, seconds: float = 1.0) -> None:
    """Keep a GPU busy until its clocks are up: measured on idle clocks, every share of the rate would be too high."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for _ in range(8):
            call()
        torch.cuda.synchronize()
