"""Write the page of figures from the measured rows and the table of compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from kernel_bench.table import Row
from kernel_bench.targets import verdicts
from kernel_bench.used import Used

HEAD = """\
# The kernels measured

This page is made by `python kernels/benchmarks/page.py` from the CSV files beside it; edit neither by hand.
[The method](../reference/method.md) says what the operators are for.

A form is timed only after its result, and its gradients, agree with float64 in the same run; one that does not is
listed as refused. The bytes are what has to be moved if every input is read once and every result written once; GB/s
and the share of the copy rate are of those bytes, so a form that moves more shows as slow. The copy rate is that of a
plain copy in the same run.
"""

NO_GPU = """\
## On a GPU

**There is no GPU figure yet.** The Triton kernels are proven in Triton's interpreter and compiled for real
architectures (below), but have not been run on a GPU. This command measures them and their rivals on one GPU; it starts
no measurement after seven minutes (`--budget-seconds`):

```console
$ python kernels/benchmarks/run.py --out docs/benchmarks/kernels-gpu.csv
```

It times torch.compile, eager PyTorch and, where `liger-kernel` and `flash-linear-attention` are installed, their
attention residuals too; rotates inputs past the last-level cache, replays small shapes as CUDA graphs, and prints which
targets are reached.
"""

GPU_COMMAND = """\
Rates and speed-ups are of the medians. Inputs rotate past the last-level cache; under CUDA-graph replay nothing of
launching is left.

```console
$ python kernels/benchmarks/run.py --out docs/benchmarks/kernels-gpu.csv
```
"""

NO_CPU = """\
## On a CPU

There is no figure here yet either: it wants a machine that nothing else uses. On one,

```console
$ python kernels/benchmarks/run.py --device cpu --out docs/benchmarks/kernels-cpu.csv
```

compares the plain PyTorch forms with eager loops and torch.compile, in float32 with two threads.
"""


def measured_files(folder: Path) -> list[Path]:
    """Return the CSV files of measured rows in a folder: kernels-cpu.csv, kernels-gpu.csv, ..."""
    return [path for path in sorted(folder.glob("kernels-*.csv")) if path.stem != "kernels-resources"]


def page(rows: Sequence[Row], used: Sequence[Used]) -> str:
    """Return the page as Markdown."""
    on_gpu = [row for row in rows if row.device != "CPU"]
    on_cpu = [row for row in rows if row.device == "CPU"]
    parts = [HEAD]
    if any(row.of_copy is not None for row in rows):
        parts.append("![Share of the copy rate that each form reaches](kernels.svg)\n")
    names = sorted({row.device for row in on_gpu})
    for name in names:
        title = "On a GPU" if len(names) == 1 else f"On a GPU: {name}"
        parts.append(_section(title, [row for row in on_gpu if row.device == name], "cuda"))
    parts.append(GPU_COMMAND if on_gpu else NO_GPU)
    if on_cpu:
        parts.append(_section("On a CPU", on_cpu, "cpu"))
        parts.append(
            "Rates and speed-ups are of the least times: forms run in interleaved rounds, and whatever else the\n"
            "machine did slowed down the median. Inputs rotate past the last-level cache.\n\n"
            "The plain form stays behind a compiled loop because it is K steps of PyTorch (`addcmul`), each of which\n"
            "reads and writes the sum again: at K = 4 twelve passes over [B, N, D] where one fused loop makes six.\n"
            "Doing it in blocks that fit the cache was tried and was slower: the steps get too short for two threads.\n"
            "Inside `torch.compile` the same form is fused, and `TOVE_KERNELS=compiled` does that wherever there is a\n"
            "C++ compiler; it is not the default because the first call then takes seconds.\n\n"
            "```console\n$ python kernels/benchmarks/run.py --device cpu --out docs/benchmarks/kernels-cpu.csv\n```\n"
        )
    else:
        parts.append(NO_CPU)
    parts.append(_compiled(used))
    return "\n".join(parts)


def _section(title: str, rows: Sequence[Row], device: str) -> str:
    origins = sorted({(r.device, r.threads, r.torch, r.triton, r.commit, r.date) for r in rows})
    lines = [f"## {title}", ""]
    for name, threads, torch, triton, commit, date in origins:
        on = f"{threads} threads, " if device == "cpu" else ""
        lines.append(f"{name}, {on}torch {torch}, triton {triton}, commit {commit or 'unknown'}, {date}.")
    for (operator, shape, direction, mode), some in groupby(rows, lambda row: row.key):
        found = list(some)
        how = ", CUDA-graph replay" if mode == "graph" else ""
        lines += ["", f"### `{operator}` {direction}, {shape}, {found[0].dtype}{how}", ""]
        lines.append(f"{found[0].bytes / 1e6:.1f} MB have to be moved.")
        lines += ["", "| form | ms p20 | p50 | p80 | least | GB/s | of copy | speed-up | error |"]
        lines.append("|---|---|---|---|---|---|---|---|---|")
        lines += [_line(row) for row in found]
    lines += ["", "Targets:", ""]
    lines += [f"- {verdict}" for verdict in verdicts(rows, device)]
    return "\n".join([*lines, ""])


def _line(row: Row) -> str:
    if row.ms_p50 is None:
        return f"| {row.form} | {row.status} | | | | | | | |"
    speed = "" if row.speedup is None else f"{row.speedup:.2f}"
    return (
        f"| {row.form} | {row.ms_p20:.3f} | {row.ms_p50:.3f} | {row.ms_p80:.3f} | {row.ms_least:.3f} | {row.gbps:.1f} "
        f"| {row.of_copy:.2f} | {speed} | {row.error:.1e} |"
    )


def _compiled(used: Sequence[Used]) -> str:
    lines = [
        "## What the compiled kernels use",
        "",
        "Compiled without a GPU from the launches themselves (`tove_kernels.offline`), read from the machine code.",
        "Loads and stores are instructions in the code, as number x bits; occupancy is resident warps over the most",
        "there can be. Tests hold the kernels to no spills and to accesses of 128 bits for their main tensors.",
        "",
        "```console",
        "$ python kernels/benchmarks/resources.py --out docs/benchmarks/kernels-resources.csv",
        "```",
    ]
    for arch, some in groupby(used, lambda row: row.arch):
        lines += ["", f"### {arch}", ""]
        lines.append(
            "| launch | kernel | registers | spilled bytes | shared bytes | warps | loads | stores | occupancy |"
        )
        lines.append("|---|---|---|---|---|---|---|---|---|")
        lines += [
            f"| {row.case} | `{row.kernel}` | {row.registers} | {row.spilled} | {row.shared} | {row.warps} "
            f"| {row.loads} | {row.stores} | {row.occupancy:.0%} |"
            for row in some
        ]
    return "\n".join([*lines, ""])
