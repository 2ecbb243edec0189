"""`tove weights`: what the lock file has pinned. Imports no torch."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Pin, show, verify and renew weights.", no_args_is_help=True)


@app.command()
def lock(
    experts: Annotated[list[str] | None, typer.Argument(help="experts to pin; none: show the pins")] = None,
) -> None:
    """Download and pin the weights of experts, or show what is pinned."""
    from tove_core import plugins
    from tove_core.hub.lock import Lock

    for name in experts or []:
        _pin(name, plugins.registry().resolve(name))
    if not experts:
        entries = Lock().entries()
        for entry in entries:
            print(f"{entry.repo} {entry.revision[:12]} {entry.file} sha256 {entry.sha256[:16]} {entry.size:,} bytes")
        print(f"{len(entries)} files pinned in {Lock().path}")


@app.command()
def verify() -> None:
    """Hash every pinned file again and compare; exit code 1 when one differs or is gone."""
    from tove_core.errors import WeightsError
    from tove_core.hub.download import fetch_file
    from tove_core.hub.lock import Lock

    entries, bad = Lock().entries(), 0
    for entry in entries:
        try:
            fetch_file(entry.repo, entry.file, entry.revision, entry.sha256)
        except WeightsError as error:
            bad += 1
            print(f"failed: {error}")
        else:
            print(f"ok: {entry.repo} {entry.file}")
    print(f"{len(entries)} files checked, {bad} failed")
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


def _pin(name: str, found) -> None:  # type: ignore[no-untyped-def]
    from tove_core.hub.download import fetch

    weights = found.spec.weights
    if weights is None or weights.repo is None:
        print(f"{name}: nothing to download")
        return
    for part in weights.files().values():
        if part.repo is not None:
            path = fetch(part.repo, part.file, part.revision, part.sha256)
            print(f"{name}: {part.repo} {part.file} at {path}")
