"""What a training step needs in memory, part by part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tove_core.config import TrainingConfig
from tove_core.demo.pipeline_bench import ENCODE, READ, TRAINED, Bench
from tove_core.fusion.noise import sample_keys
from tove_core.language.base import Decoder
from tove_core.resident import peak_resident
from tove_core.training.examples import Examples
from tove_core.training.optimise import parameter_groups
from tove_core.training.step import TransferStep


def measure_memory(bench: Bench) -> dict[str, int]:
    """Return bytes by part: parameters, features, what the backward pass keeps, gradients and AdamW of one step."""
    model = bench.model
    found = {"parameters of CLIP": _nbytes(model.tower.parameters())}
    found |= {f"parameters of {name}": _nbytes(model.experts[name].parameters()) for name in model.active_experts}
    found |= {"parameters of the fusion": _nbytes(model.fusion.parameters() if model.fusion is not None else ())}
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
    per_image = sum(2 * feature[0].numel() for feature in features.values())
    found[f"table of {len(bench.images):,} images, float16"] = per_image * len(bench.images)
    return found


def measure_peaks(bench: Bench) -> dict[str, int]:
    """Return the most bytes of tensors that each part had at once, beyond those that were there before it.

    On the CPU those of the thread that trains are counted: what is read ahead by others, one step's images, is not.
    """
    table = Examples(bench.model, bench.samples, bench.table)
    live = Examples(bench.model, bench.samples, workers=0)
    seen = bench.read(0)
    parts: dict[str, Callable[[], object]] = {
        READ: lambda: bench.read(0),
        ENCODE: lambda: bench.model.encode(seen),
        TRAINED: lambda: bench.fitted(table),
        "live step, 0 workers": lambda: bench.fitted(live),
    }
    measure = _peak_on_gpu if bench.model.device.type == "cuda" else _peak_on_cpu
    return {name: measure(part) for name, part in parts.items()}


def report_memory(memory: dict[str, int], peaks: dict[str, int]) -> str:
    """Return bytes by part as a table."""
    lines = [f"{name:<40}{count / 1e6:>12.1f} MB" for name, count in memory.items()]
    lines.append("at once, beyond what was there before")
    lines += [f"  {name:<38}{count / 1e6:>12.1f} MB" for name, count in peaks.items()]
    return "\n".join([*lines, f"{'the process at its peak, resident':<40}{(peak_resident() or 0) / 1e6:>12.1f} MB"])


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
        output = step(features, examples.prompts(indices), examples.targets(indices, [0] * len(indices)), keys=keys)
    output.loss.backward()
    return sum(kept.values())


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _peak_on_gpu(part: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    part()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(part: Callable[[], object]) -> int:
    """Add up what torch's profiler says was allocated and freed."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would say on stderr that it starts, and that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        part()
    # Allocations within operators are not among `seen.events()`.
    found: Any = seen.profiler.kineto_results  # type: ignore[union-attr]  # set when it was left
    events = sorted((e for e in found.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in events), initial=0))
