"""`tove runs compare`: what two runs were told differently and how they went, or evaluations side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Look at runs side by side.", no_args_is_help=True)

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="FOLDER...", help="folders of two runs, or of two or more evaluations (tove evaluate --out)"
    ),
]


@app.callback()
def _runs() -> None:
    """Look at runs side by side."""


@app.command()
def compare(
    folders: Folders,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Show how runs or evaluations differ.

    Of two runs: the keys in which their configurations differ, and the last and the lowest of their metrics. Of
    evaluations of one task on the same data: scores with their intervals, throughput, latency, memory and GFLOP.
    """
    from tove_core.errors import ConfigError
    from tove_core.evaluation.table import is_evaluation, read_comparable, side_by_side

    evaluations = [folder for folder in folders if is_evaluation(folder)]
    if len(evaluations) == len(folders):
        if as_json:
            print(json.dumps([one.plain() for one in read_comparable(folders)], indent=2))
        else:
            print(side_by_side(folders))
        return
    if evaluations:
        other = next(folder for folder in folders if folder not in evaluations)
        raise ConfigError(
            f"{evaluations[0]} holds an evaluation and {other} does not; compare runs with runs, and evaluations with "
            "evaluations"
        )
    if len(folders) != 2:
        given = "1 run was" if len(folders) == 1 else f"{len(folders)} runs were"
        raise ConfigError(f"{given} given, but two are compared at a time; name two folders")
    _compare_runs(*folders, as_json=as_json)


def _compare_runs(first: Path, second: Path, *, as_json: bool) -> None:
    configs, metrics = [_config(run) for run in (first, second)], [_metrics(run) for run in (first, second)]
    differing = [key for key in sorted(configs[0].keys() | configs[1].keys()) if _differs(key, *configs)]
    named = sorted(metrics[0].keys() | metrics[1].keys(), key=lambda key: (key != "step", key))
    if as_json:
        pairs = [
            {key: [side.get(key) for side in sides] for key in keys}
            for keys, sides in ((differing, configs), (named, metrics))
        ]
        told = {"runs": [str(first), str(second)], "configuration": pairs[0], "metrics": pairs[1]}
        print(json.dumps(told, indent=2))
        return
    print(f"A: {first}\nB: {second}\n")
    if differing:
        print(_table("configuration", differing, configs))
    else:
        print("the configurations are the same")
    print("\n" + (_table("metrics", named, metrics) if named else "neither has metrics"))


def _table(title: str, keys: Sequence[str], sides: Sequence[dict[str, Any]]) -> str:
    """Return aligned columns, whose values are whole: neither key nor value is cut to a terminal's width."""
    rows = [(title, "A", "B"), *((key, *(_shown(side.get(key)) for side in sides)) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _differs(key: str, first: dict[str, Any], second: dict[str, Any]) -> bool:
    return key != "output" and first.get(key) != second.get(key)


def _config(run: Path) -> dict[str, Any]:
    """Return a run's configuration with dotted keys."""
    from tove_core.config import RunConfig
    from tove_core.errors import CheckpointError
    from tove_core.settings import read_config

    path = run / "config.yaml"
    if not run.is_dir():
        raise CheckpointError(f"there is no folder {run}; give the folder of a run")
    if not path.is_file():
        raise CheckpointError(f"{run} holds no run ({path.name} is missing); give the folder of a run")
    # Read and not taken as it lies there: a run of an older tove lacks keys, whose defaults then count.
    return _flat(read_config(RunConfig, path).model_dump(mode="json"))


def _metrics(run: Path) -> dict[str, Any]:
    """Return the numbers of a run's last logged step, and its lowest loss."""
    steps = _steps(run / "metrics.jsonl")
    if not steps:
        return {}
    last = _flat(steps[-1])
    losses = [(step["loss"], step.get("step")) for step in steps if _is_finite(step.get("loss"))]
    if not losses:
        return last
    lowest, at = min(losses, key=lambda found: found[0])  # the first of equals
    return last | {"loss, lowest": lowest, "loss, lowest at step": at}


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _steps(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a metrics file. Lines that hold none, as a killed process leaves one, are left out; a note
    on stderr says how many."""
    from tove_core.errors import CheckpointError

    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check who may read it") from error
    steps, odd = [], []
    for number, line in enumerate(lines, 1):
        step = _object(line)
        if step is not None:
            steps.append(step)
        elif line.strip():
            odd.append(number)
    if odd:
        count = f"line {odd[0]} is" if len(odd) == 1 else f"{len(odd)} lines, first line {odd[0]}, are"
        typer.echo(f"note: {path}: {count} not a JSON object and left out", err=True)
    return steps


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # torn, or not text
        return None
    return found if isinstance(found, dict) else None


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping with dotted keys."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = ((str(item.get("alias") or item.get("name") or number), item) for number, item in enumerate(value))
    else:
        return {name: value}
    parts = [_flat(part, f"{name}.{key}" if name else str(key)) for key, part in items]
    return {key: part for found in parts for key, part in found.items()}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)
