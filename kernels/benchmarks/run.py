"""Measure the operators and their rivals: `python kernels/benchmarks/run.py [--op NAME] [--quick] --out FILE.csv`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
import torch._functorch.config

# The operators beside the benchmark, whatever is installed: they are what is measured.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernel_bench.runner import Run, measure
from kernel_bench.table import Row, origin, write
from kernel_bench.targets import verdicts
from kernel_bench.timing import copy_rate
from kernel_bench.workloads import OPERATORS, workloads


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", action="append", choices=OPERATORS, help="only this operator; may be given again")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to measure")
    parser.add_argument("--quick", action="store_true", help="only two shapes of each operator, and fewer rounds")
    parser.add_argument("--threads", type=int, default=2, help="threads on a CPU")
    parser.add_argument("--rounds", type=int, default=40, help="interleaved rounds on a CPU")
    parser.add_argument("--budget-seconds", type=float, default=420.0, help="start no measurement after so long")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell it")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    return parser.parse_args()


def main() -> int:
    """Measure, write the rows after every workload, and print the targets; the exit status is 1 where one is missed."""
    given = arguments()
    deadline = time.monotonic() + given.budget_seconds
    if given.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; measure the CPU part with --device cpu", file=sys.stderr)
        return 2
    if given.device == "cpu":
        torch.set_num_threads(given.threads)
    # Inputs are used again and again, so compiled backward passes must keep what they save.
    torch._functorch.config.donated_buffer = False  # type: ignore[attr-defined]  # torch's own switch for it
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(given.device)
    run = Run(device, copy_rate(device), origin(device, given.commit), deadline)
    print(f"{run.origin.device}: copies {run.copy / 1e9:.0f} GB/s, read and written")
    rows: list[Row] = []
    for workload in workloads(device, tuple(given.op or OPERATORS), given.quick):
        for row in measure(workload, run, min(given.rounds, 10) if given.quick else given.rounds):
            rows.append(row)
            print(_line(row), flush=True)
        write(given.out, rows)
    if device.type == "cpu":
        print("not run: everything that needs a GPU (Triton forms, bfloat16, CUDA graphs, other libraries' kernels)")
    found = verdicts(rows, device.type)
    print(*found, sep="\n")
    return int(any(verdict.reached is False for verdict in found))


def _line(row: Row) -> str:
    head = f"{row.operator} {row.shape} {row.direction} {row.mode}: {row.form}"
    if row.ms_p50 is None:
        return f"{head}: {row.status}"
    return (
        f"{head}: {row.ms_p50:.4f} ms ({row.ms_p20:.4f} to {row.ms_p80:.4f}, least {row.ms_least:.4f}), "
        f"{row.gbps:.0f} GB/s, {row.of_copy:.2f} of copy, {row.speedup or float('nan'):.2f}x, error {row.error:.1e}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
