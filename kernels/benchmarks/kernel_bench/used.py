"""The table of what compiled kernels use, as CSV: made without a GPU by `tove_kernels.offline`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from tove_kernels.offline.__main__ import COMPLAINTS


@dataclass(frozen=True)
class Used:
    """One kernel of one launch on one architecture; widths as `number x bits`."""

    case: str
    arch: str
    kernel: str
    registers: int
    spilled: int
    shared: int
    warps: int
    loads: str
    stores: str
    occupancy: float


WARPS = 64  # resident warps of a multiprocessor of all three architectures


def compile_all() -> list[Used]:
    """Compile every case for sm_90 and the main ones for sm_80 and sm_100.

    Raises:
        RuntimeError: the compilation fails.
    """
    found = []
    for options in (["sm_90"], ["--main", "sm_80", "sm_100"]):
        command = [sys.executable, "-W", "ignore", "-m", "tove_kernels.offline", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, COMPLAINTS):
            raise RuntimeError(f"offline compilation fails: {done.stderr[-2000:]}")
        found += [_used(json.loads(line)) for line in done.stdout.splitlines()]
    return found


def write_used(path: Path, rows: Iterable[Used]) -> None:
    """Write the table as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(Used)]
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)


def read_used(path: Path) -> list[Used]:
    """Read the table back."""
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        return [Used(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(Used)}) for line in reader]


def _used(row: dict) -> Used:
    used = row["used"]
    return Used(
        row["case"],
        row["arch"],
        row["kernel"],
        used["registers"],
        used["local"],
        used["shared"],
        used["warps"],
        _widths(used["loads"]),
        _widths(used["stores"]),
        round(used["blocks"] * used["warps"] / WARPS, 3),
    )


def _widths(counts: dict[str, int]) -> str:
    return " ".join(f"{count}x{bits}" for bits, count in sorted(counts.items(), key=lambda item: -int(item[0])))
