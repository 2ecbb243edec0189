"""`tove experts`: what is installed. Imports no torch."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tove_core import plugins
from tove_core.spec import ExpertSpec, Grid, Regions

app = typer.Typer(help="List and show the installed experts.", no_args_is_help=True)


@app.command("list")
def list_experts(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    imports: Annotated[
        bool, typer.Option("--import/--no-import", help="Without import no plugin code runs: only names are known.")
    ] = True,
) -> None:
    """List every expert by the name that `build(experts=[...])` takes."""
    rows = _rows() if imports else _entries()
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _table(rows)
    else:
        print("no experts are installed, or all are blocked")
    if imports:
        for line in _problems(plugins.registry()):
            typer.echo(line, err=True)


@app.command("show")
def show_expert(name: Annotated[str, typer.Argument(help="name, name:variant or distribution/name")]) -> None:
    """Show everything an expert declares."""
    found = plugins.registry().resolve(name)
    print(f"{found.offer.qualified}  (from {found.offer.source})")
    print(json.dumps(found.spec.model_dump(mode="json", exclude_none=True), indent=2))
    if found.offer.spec.variants:
        print(f"variants: {', '.join(found.offer.spec.variants)}  (default {found.offer.spec.default})")


def _rows() -> list[dict[str, Any]]:
    rows = []
    for name, offer in plugins.experts().items():
        spec = offer.spec.variant()
        if offer.spec.family is not None and offer.spec.default is None:
            rows.append(_family(name, offer))
            continue
        rows.append(
            {
                "name": name,
                "outputs": ", ".join(f"{key} {_shape(spec, key)}" for key in spec.outputs),
                "params": spec.cost.params if spec.cost else None,
                "license": spec.weights.license if spec.weights else None,
                "variants": list(offer.spec.variants),
                "from": str(offer.source),
                "summary": spec.summary,
            }
        )
    return rows


def _family(name: str, offer: plugins.Offer) -> dict[str, Any]:
    """Return the row of an expert that is nothing before a member of its family is named."""
    row: dict[str, Any] = {"name": f"{name}:NAME", "outputs": "as NAME says", "params": None, "license": None}
    return row | {"variants": [], "from": str(offer.source), "summary": offer.spec.summary}


def _entries() -> list[dict[str, Any]]:
    return [{"name": source.entry_point, "from": str(source)} for source in plugins.installed()]


def _shape(spec: ExpertSpec, key: str) -> str:
    output = spec.outputs[key]
    if isinstance(output, Grid):
        return f"{output.channels}x{spec.input.size[0] // output.stride}x{spec.input.size[1] // output.stride}"
    return f"regions<={output.limit}" if isinstance(output, Regions) else str(output.channels)


def _table(rows: list[dict[str, Any]]) -> None:
    columns = [column for column in ("name", "outputs", "params", "license", "from", "summary") if column in rows[0]]
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.1f}M" if isinstance(value, int) else str(value)


def _problems(registry: plugins.Registry) -> list[str]:
    lines = [
        f"{source} failed to load ({type(error).__name__}: {error}); 'tove doctor' tells more"
        for source, error in sorted(registry.failures.items())
    ]
    lines += [f"{source} is blocked by {variable}" for source, variable in sorted(registry.blocked.items())]
    return lines + registry.notes
