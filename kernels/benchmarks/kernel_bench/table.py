"""The rows of the benchmark and their CSV file."""

from __future__ import annotations

import csv
import datetime
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One form of one operator at one shape in one direction.

    `status` is ok, or why there is no time. `bytes` is what has to be moved, `gbps` that over the median time,
    `of_copy` the share of the copy rate of the same run, `speedup` the baseline's median over this one's. On a CPU,
    which others use too, rates and speed-ups are of the least times.
    """

    operator: str
    shape: str
    dtype: str
    direction: str
    mode: str
    form: str
    status: str
    error: float | None
    bytes: int
    ms_least: float | None
    ms_p20: float | None
    ms_p50: float | None
    ms_p80: float | None
    samples: int | None
    gbps: float | None
    of_copy: float | None
    speedup: float | None
    device: str
    threads: int
    torch: str
    triton: str
    tove: str
    commit: str
    date: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What speed-ups compare within: operator, shape, direction, mode."""
        return self.operator, self.shape, self.direction, self.mode


@dataclass(frozen=True)
class Origin:
    """Where and with what a run was made; part of every row."""

    device: str
    threads: int
    torch: str
    triton: str
    tove: str
    commit: str
    date: str


def origin(device: torch.device, commit: str | None = None) -> Origin:
    """Return the origin of a run on a device; git tells the commit where none is given."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Origin(
        name,
        torch.get_num_threads(),
        torch.__version__,
        _version("triton"),
        _version("tove-core"),
        commit or _commit(),
        datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    )


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV; a missing figure is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in asdict(row).items()})


def read(path: Path) -> list[Row]:
    """Read rows back.

    Raises:
        ValueError: the columns are not those of this version.
    """
    wanted = [field.name for field in fields(Row)]
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != wanted:
            raise ValueError(f"{path} has columns {reader.fieldnames}; wanted {wanted}, run the benchmark again")
        kinds = {field.name: str(field.type) for field in fields(Row)}
        return [Row(**{name: _value(kinds[name], text) for name, text in line.items()}) for line in reader]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(kind: str, text: str) -> Any:
    if "None" in kind and not text:
        return None
    if kind.startswith("float"):
        return float(text)
    return int(text) if kind.startswith("int") else text


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
