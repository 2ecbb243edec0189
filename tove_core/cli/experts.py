"""`tove experts`: what is installed. Imports no torch."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tove_core import plugins
from tove_core.licenses import shown
from tove_core.spec import ExpertSpec, Grid, Regions

app = typer.Typer(help="List, show and check the installed experts, or begin one of your own.", no_args_is_help=True)

COLUMNS = ("name", "outputs", "params", "GFLOP", "license", "commercial", "from", "status", "summary")


@app.command("list")
def list_experts(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
    imports: Annotated[
        bool, typer.Option("--import/--no-import", help="without import no plugin code runs, and only names are known")
    ] = True,
) -> None:
    """List every expert by the name that `build(experts=[...])` takes, and plugins that failed or are blocked."""
    rows = [*_experts(), *_absent(plugins.registry())] if imports else _entries()
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
def show_expert(
    name: Annotated[str, typer.Argument(help="name, name:variant or distribution/name")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Show everything an expert declares."""
    found = plugins.registry().resolve(name)
    declared = found.spec.model_dump(mode="json", exclude_none=True)
    nameless = found.offer.spec.family is not None and found.variant is None
    row = _family(name, found.offer) if nameless else _row(name, found.offer, found.spec)
    if as_json:
        print(
            json.dumps(row | {"qualified": found.offer.qualified, "variant": found.variant, "spec": declared}, indent=2)
        )
        return
    print(f"{found.offer.qualified}  (from {found.offer.source})")
    for key in ("outputs", "params", "GFLOP", "license", "commercial"):
        print(f"{key + ':':<11} {_cell(key, row.get(key))}")
    if found.spec.weights and any(file.gated for file in found.spec.weights.files().values()):
        print("gated:      accept the licence on the repository's page, then run 'hf auth login'")
    print(json.dumps(declared, indent=2))
    if found.offer.spec.variants:
        print(f"variants: {', '.join(found.offer.spec.variants)}  (default {found.offer.spec.default})")


def _experts() -> list[dict[str, Any]]:
    rows = []
    for name, offer in plugins.experts().items():
        nameless = offer.spec.family is not None and offer.spec.default is None
        rows.append(_family(name, offer) if nameless else _row(name, offer, offer.spec.variant()))
    return rows


def _family(name: str, offer: plugins.Offer) -> dict[str, Any]:
    """Return the row of an expert that is nothing before a member of its family is named."""
    unknown = dict.fromkeys(("params", "GFLOP", "license", "commercial"))
    row: dict[str, Any] = {"name": f"{name}:NAME", "outputs": "as NAME says", **unknown, "variants": []}
    return row | {"from": str(offer.source), "status": "ok", "summary": offer.spec.summary}


def _row(name: str, offer: plugins.Offer, spec: ExpertSpec) -> dict[str, Any]:
    """Return what a table says of an expert whose variant is applied."""
    cost, (license, commercial) = spec.cost, shown(spec.weights)
    return {
        "name": name,
        "outputs": ", ".join(f"{key} {_shape(spec, key)}" for key in spec.outputs),
        "params": cost.params if cost else None,
        "GFLOP": cost.flops / 1e9 if cost and cost.flops is not None else None,
        "license": license,
        "commercial": commercial,
        "variants": list(offer.spec.variants),
        "from": str(offer.source),
        "status": "ok",
        "summary": spec.summary,
    }


def _absent(registry: plugins.Registry) -> list[dict[str, Any]]:
    """Return a row for each plugin that gave no experts, under the name of its entry point."""
    rows = [
        _bare(source, "failed") | {"summary": " ".join(f"{type(error).__name__}: {error}".split())}
        for source, error in sorted(registry.failures.items())
    ]
    rows += [_bare(source, f"blocked by {variable}") for source, variable in sorted(registry.blocked.items())]
    return rows + [_bare(source, "offers no expert") for source in sorted(registry.empty)]


def _entries() -> list[dict[str, Any]]:
    """Return a row for each installed plugin from its metadata alone."""
    blocked = {source: plugins.blocker(source) for source in plugins.installed()}
    return [_bare(source, f"blocked by {name}" if name else "not imported") for source, name in blocked.items()]


def _bare(source: plugins.Source, status: str) -> dict[str, Any]:
    return {"name": source.entry_point, "from": str(source), "status": status}


def _shape(spec: ExpertSpec, key: str) -> str:
    output = spec.outputs[key]
    if isinstance(output, Grid):
        return f"{output.channels}x{spec.input.size[0] // output.stride}x{spec.input.size[1] // output.stride}"
    return f"regions<={output.limit}" if isinstance(output, Regions) else str(output.channels)


def _table(rows: list[dict[str, Any]]) -> None:
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    cells = [columns, *([_cell(column, row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column == "params":
        return f"{value / 1e6:.1f}M"
    return f"{value:.3g}" if column == "GFLOP" and value < 100 else f"{value:.0f}" if column == "GFLOP" else str(value)


def _problems(registry: plugins.Registry) -> list[str]:
    lines = [
        f"{source} failed to load ({type(error).__name__}: {error}); 'tove doctor' tells more"
        for source, error in sorted(registry.failures.items())
    ]
    lines += [f"{source} is blocked by {variable}" for source, variable in sorted(registry.blocked.items())]
    lines += [
        f"{source} offers no expert: its tove_experts() returns an empty list" for source in sorted(registry.empty)
    ]
    return [" ".join(line.split()) for line in (*lines, *registry.notes)]  # a message may have several lines
