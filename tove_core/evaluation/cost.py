"""What an answer costs: time for one image alone, samples per second, memory and operations."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tove_core.data.sample import Sample
from tove_core.model import ToveModel
from tove_core.operations import counted
from tove_core.resident import peak_resident

_REPEATS = 5


@dataclass(frozen=True)
class Cost:
    """What it took to let a model answer.

    Attributes:
        samples_per_second: over all samples and processes of the last run, reading of images included; None
            where nothing was left to do.
        latency: seconds from one decoded image to its text, alone in its batch; median of five after one warm-up.
        gflop: 10^9 operations of the same, a multiply-add as two: matrix products, convolutions and attention of
            PyTorch, not those inside Triton kernels. The length of the text decides it too.
        peak_memory: most bytes at once, of `memory_of`; None on Windows without CUDA, which does not say.
        memory_of: the device ("cuda:0": what PyTorch allocated) or "process" (all of it, resident).
        device: where it ran.
    """

    samples_per_second: float | None
    latency: float
    gflop: float
    peak_memory: int | None
    memory_of: str
    device: str

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        return asdict(self)

    def __str__(self) -> str:
        """Return one line."""
        speed = f"{self.samples_per_second:.1f} samples/s, " if self.samples_per_second else ""
        memory = f"{self.peak_memory / 2**20:.0f} MiB" if self.peak_memory else "unknown memory"
        alone = f"{self.latency * 1000:.1f} ms and {self.gflop:.3g} GFLOP alone"
        return f"{speed}{alone}, {memory} ({self.memory_of}) on {self.device}"


@torch.no_grad()
def measure_cost(model: ToveModel, sample: Sample, samples_per_second: float | None, **generation: Any) -> Cost:
    """Time and count one sample; memory is that of the process so far."""
    model.eval()
    image = sample.load()

    def answer() -> None:
        tokens = model.tokens(image).flatten(0, 1)[None]  # of several images, one after another
        prompt = sample.prompt or (model.config.decoder.caption_prompt if model.config.decoder else "")
        model.generate(tokens, [prompt], **generation)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    with counted() as counter:
        answer()
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        answer()
        seconds.append(time.perf_counter() - began)
    peak, whose = _peak(model.device)
    flops = counter.get_total_flops() / 1e9
    return Cost(samples_per_second, statistics.median(seconds), flops, peak, whose, str(model.device))


def _peak(device: torch.device) -> tuple[int | None, str]:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), str(device)
    return peak_resident(), "process"
