"""All workloads of a run, the reference shapes first: what the time does not suffice for is the least important."""

from __future__ import annotations

import torch

from kernel_bench import alignment, mixes
from kernel_bench.workload import Workload

OPERATORS = ("gated_mix", "gated_activation_mix", "align_tokens")


def workloads(device: torch.device, operators: tuple[str, ...] = OPERATORS, quick: bool = False) -> list[Workload]:
    """Return the workloads for a device: bfloat16 on a GPU, float32 at one small shape on a CPU.

    Args:
        device: where they will run.
        operators: some of OPERATORS.
        quick: only the first two shapes of each.
    """
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    most = 2 if quick else None
    shapes = mixes.SHAPES[:most] if on_gpu else [mixes.ON_CPU]
    maps = alignment.SHAPES[:most] if on_gpu else [alignment.ON_CPU]
    by_name = {
        "gated_mix": [mixes.mix_workload(shape, dtype, device) for shape in shapes],
        "gated_activation_mix": [mixes.activation_workload(shape, dtype, device) for shape in shapes],
        "align_tokens": [alignment.align_workload(shape, dtype, device) for shape in maps],
    }
    chosen = [by_name[name] for name in OPERATORS if name in operators]
    longest = max(map(len, chosen), default=0)
    return [some[place] for place in range(longest) for some in chosen if place < len(some)]
