"""`tove push`: put a checkpoint on the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from tove_core.cli.places import own_run

PushedRun = Annotated[str, typer.Argument(metavar="RUN", help="folder of a run, a checkpoint or a merged model")]


def push(
    run: PushedRun,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="hub id; made if it is not there")],
    private: Annotated[bool, typer.Option("--private", help="make it private")] = False,
    revision: Annotated[str | None, typer.Option(help="branch; made if it is not there; main when not given")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="with the frozen parts inside, so that nothing else has to be fetched")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a part, or a licence, whose weights you may pass on; you read its terms"),
    ] = None,
    message: Annotated[str | None, typer.Option(help="message of the commit")] = None,
) -> None:
    """Push a run's checkpoint to the hub, with a page that names its parts, their terms and what was measured.

    The files are verified and pushed as they are, in one commit. A page that is there already stays as it is. With
    weights of others inside (--full, or a merged model), those whose licence is not known to let them be passed on are
    refused unless --allow names them.
    """
    from tove_core.checkpoint import read_manifest
    from tove_core.publishing.measured import evaluations
    from tove_core.publishing.push import push_folder, push_model

    folder = own_run(run, "tove push", "the folder of a checkpoint")
    options = {
        "private": private or None,
        "revision": revision,
        "message": message,
        "allow": allow or [],
        "measured": evaluations(folder),
    }
    if full and not read_manifest(folder).full:
        from tove_core.model import ToveModel

        address = push_model(ToveModel.from_pretrained(folder), repo, full=True, **options)
    else:
        address = push_folder(folder, repo, **options)
    print(f"pushed {run} to {address}")
