"""What a training step needs in memory, part by part."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from tove_core.config import TrainingConfig
from tove_core.demo.pipeline_bench import ENCODE, READ, TRAINED, Bench
from tove_core.fusion.noise import sample_keys
from tove_core.language.base import Decoder
from tove_core.training.examples import Examples
from tove_core.training.optimise import parameter_groups
from tove_core.training.step import TransferStep

_RESET = Path("/proc/self/clear_refs")
"""Linux: writing 5 forgets the peak of the resident size."""


def measure_memory(bench: Bench) -> dict[str, int]:
    """Return bytes by part: parameters, features, what the backward pass keeps, gradients and AdamW of one step."""
    model = bench.model
    found = {"parameters of CLIP": _nbytes(model.tower.parameters())}
    found |= {f"parameters of {name}": _nbytes(model.experts[name].parameters()) for name in model.active_experts}
    found |= {"parameters of the fusion": _nbytes(model.fusion.parameters() if model.fusion else ())}
    decoder: Decoder = model._decoder()
    found |= {"parameters of the decoder": _nbytes(decoder.parameters())}
    seen = bench.read(0)
    found["images of a step, resampled"] = _nbytes(row for one in seen for row in one.rows.values())
    features, step = model.encode(seen), TransferStep(model.fusion, decoder)
    found["features of a step, float32"] = _nbytes(features.values())
    optimizer = torch.optim.AdamW(parameter_groups(step, TrainingConfig()))
    trained = [p for p in step.parameters() if p.requires_grad]
    found["kept for the backward pass"] = _backward(bench, step, features)
    found["gradients"] = _nbytes(p.grad for p in trained if p.grad is not None)
    optimizer.step()
    found["moments of AdamW"] = _nbytes(v for state in optimizer.state.values() for v in state.values())
    optimizer.zero_grad(set_to_none=True)
    per_image = _nbytes(features.values()) // len(bench.batches[0]) // 2
    found[f"table of {len(bench.images):,} images, float16"] = per_image * len(bench.images)
    return found


def measure_peaks(bench: Bench) -> dict[str, int]:
    """Return the most bytes at once while each part runs: allocated on a GPU, else resident in the process.

    Where the system cannot forget a peak, the last one is of all parts together.
    """
    table = Examples(bench.model, bench.samples, bench.table)
    live = Examples(bench.model, bench.samples, workers=2)
    seen = bench.read(0)
    parts: dict[str, Callable[[], object]] = {
        READ: lambda: bench.read(0),
        ENCODE: lambda: bench.model.encode(seen),
        TRAINED: lambda: bench.fitted(table),
        "live step, 2 workers": lambda: bench.fitted(live),
    }
    found = {}
    for name, part in parts.items():
        _forget_peak(bench.model.device)
        part()
        found[name] = _peak(bench.model.device)
    return found


def report_memory(memory: dict[str, int], peaks: dict[str, int], device: torch.device) -> str:
    """Return bytes by part as a table."""
    whose = str(device) if device.type == "cuda" else "the process, resident"
    lines = [f"{name:<40}{count / 1e6:>12.1f} MB" for name, count in memory.items()]
    lines.append(f"peak of {whose}, while")
    return "\n".join([*lines, *(f"  {name:<38}{count / 1e6:>12.1f} MB" for name, count in peaks.items())])


def _backward(bench: Bench, step: TransferStep, features: dict[str, Tensor]) -> int:
    """Run one step forward and backward; return the bytes that were kept in between, parameters left out."""
    indices = bench.batches[0]
    examples = Examples(bench.model, bench.samples, bench.table)
    keys = sample_keys(0, [0] * len(indices), indices)
    own = {p.untyped_storage().data_ptr() for p in step.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = step(features, examples.prompts(indices), examples.targets(indices, keys), keys=keys)
    output.loss.backward()
    return sum(kept.values())


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _RESET.write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    # Kilobytes everywhere but on macOS, which counts bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
