"""`tove weights`: what the lock file has pinned. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(help="Pin, show, verify and renew weights.", no_args_is_help=True)


@app.command()
def lock(
    experts: Annotated[list[str] | None, typer.Argument(help="experts to pin; none: show the pins")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the pins as JSON for programs")] = False,
) -> None:
    """Download and pin the weights of experts, or show what is pinned."""
    from tove_core import plugins
    from tove_core.errors import ConfigError
    from tove_core.hub.lock import Lock

    if experts and as_json:
        raise ConfigError("--json shows the pins, and experts are named to be pinned; leave out one of them")
    for name in experts or []:
        _pin(name, plugins.registry().resolve(name))
    if not experts:
        entries, bare = Lock().entries(), Lock().pins_without_files()
        if as_json:
            told = {"lock": str(Lock().path), "files": [asdict(entry) for entry in entries], "without_files": bare}
            print(json.dumps(told, indent=2))
            return
        for entry in entries:
            print(f"{entry.repo} {entry.revision[:12]} {entry.file} sha256 {entry.sha256[:16]} {entry.size:,} bytes")
        for pin, commit in bare.items():
            print(f"{pin} {commit[:12]} the commit alone, no file of it is recorded")
        print(f"{len(entries)} files pinned in {Lock().path}{_and_bare(bare)}")


@app.command()
def verify() -> None:
    """Hash every pinned file again and compare; exit code 1 when one differs or is gone, or there is none."""
    from tove_core.errors import WeightsError
    from tove_core.hub.download import fetch_file
    from tove_core.hub.lock import Lock

    entries, bare, bad = Lock().entries(), Lock().pins_without_files(), 0
    for entry in entries:
        try:
            fetch_file(entry.repo, entry.file, entry.revision, entry.sha256)
        except WeightsError as error:
            bad += 1
            print(f"failed: {error}")
        else:
            print(f"ok: {entry.repo} {entry.file}")
    for pin, commit in bare.items():
        print(f"not checked: {pin} is pinned to {commit[:12]}, and no hash of its files is recorded")
    print(f"{len(entries)} files checked, {bad} failed{_and_bare(bare)}")
    if not entries:
        raise WeightsError(
            f"nothing was checked, since {Lock().path} records no file; 'tove weights lock EXPERT' records those of one"
        )
    if bad:
        raise typer.Exit(1)


@app.command()
def update(repo: Annotated[str, typer.Argument(help="hub id, owner/name")]) -> None:
    """Forget a repository's pin, so that its next use pins the present commit."""
    from tove_core.errors import WeightsError
    from tove_core.hub.lock import Lock

    if not Lock().forget(repo):
        raise WeightsError(f"{repo} is not pinned; 'tove weights lock' shows what is")
    print(f"forgot {repo}; its next use pins the present commit")


def _and_bare(pins: dict[str, str]) -> str:
    return f", {len(pins)} pinned without a file" if pins else ""


def _pin(name: str, found) -> None:  # type: ignore[no-untyped-def]
    from tove_core.hub.download import fetch

    weights = found.to_build().weights
    if weights is None or weights.repo is None:
        print(f"{name}: nothing to download")
        return
    for part in weights.files().values():
        if part.repo is not None:
            path = fetch(part.repo, part.file, part.revision, part.sha256)
            print(f"{name}: {part.repo} {part.file} at {path}")
