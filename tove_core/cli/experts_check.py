"""`tove experts check`: hold experts to what they declare, with a table, a count and an exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core import plugins
from tove_core.errors import ConfigError

if TYPE_CHECKING:
    from tove_core.testing import Result


def check_experts(
    names: Annotated[
        list[str] | None, typer.Argument(help="name, name:variant or distribution/name; without a variant, all of them")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="check every installed expert")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
    expect_failure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=REASON", help="a check that is known to fail (ID or EXPERT/ID), and why; it must fail"
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="show only what failed, and the count")] = False,
) -> None:
    """Check experts against what they declare; exit with code 1 where one fails.

    Random weights on the CPU, no downloads. A failure is shown with its cause and its cure.
    """
    if every and names:
        raise ConfigError(f"{names[0]} and --all were both given; name experts or give --all, not both")
    if not every and not names:
        raise ConfigError("name the experts to check, or give --all; 'tove experts list' shows what is installed")
    registry = plugins.registry()
    wanted = registry.names() if every else list(names or ())
    expected = _expected(expect_failure or [])
    results = _run(wanted, expected, as_json=as_json, quiet=quiet)
    broken = sorted(registry.failures.items()) if every else []
    for source, error in broken:
        typer.echo(f"{source} failed to load ({type(error).__name__}: {error}); 'tove doctor' tells more", err=True)
    if broken or not all(result.ok for result in results):
        raise typer.Exit(1)


def _expected(given: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    return {id.strip(): reason for id, _, reason in pairs}


def _run(names: list[str], expected: dict[str, str], *, as_json: bool, quiet: bool) -> list[Result]:
    from tove_core.testing import count, run_checks

    results: list[Result] = []
    told: set[str] = set()
    start = time.monotonic()
    subject = None
    for result in run_checks(*names, expected_failures=expected):
        results.append(result)
        if as_json:
            continue
        if result.check.subject is not subject and not quiet:
            subject = result.check.subject
            print(_heading(result))
        if not quiet or not result.ok:
            print("\n".join(_lines(result, named=quiet, told=told)), flush=True)
            told.add(result.detail)
    if as_json:
        print(json.dumps([_record(result) for result in results if not quiet or not result.ok], indent=2))
    else:
        print(f"{count(results)}  ({time.monotonic() - start:.0f} s)")
    return results


def _heading(result: Result) -> str:
    subject = result.check.subject
    source = f"  (from {subject.offer.source})" if subject.offer else ""
    part = "" if subject.builds else "; declaration and architecture only, another variant is built"
    return f"{subject.name}{source}{part}"


def _lines(result: Result, *, named: bool, told: Collection[str] = ()) -> list[str]:
    """Return what is printed of a result; what keeps many checks from looking was `told` by the first of them."""
    name = f"{result.check.subject.name} " if named else ""
    detail = "as above" if result.status == "not run" and result.detail in told else result.detail
    lines = [f"  {result.status:<19}{name}{result.check.id:<26} {detail}".rstrip()]
    if not result.ok and result.status != "not run":
        lines += [f"    cause: {result.check.definition.cause}", f"    cure: {result.check.definition.cure}"]
    return lines


def _record(result: Result) -> dict[str, object]:
    return {
        "expert": result.check.subject.name,
        "check": result.check.id,
        "status": result.status,
        "ok": result.ok,
        "detail": result.detail,
        "seconds": round(result.seconds, 3),
    }
