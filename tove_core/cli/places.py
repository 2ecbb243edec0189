"""The argument RUN: a folder, or for commands that only read a checkpoint one of the hub. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="folder of a run or of a checkpoint, or hub id: owner/name, owner/name@tag")
]
"""The argument of commands that read a checkpoint. Text, because a path has lost whether it began with './'."""

OwnRun = Annotated[str, typer.Argument(metavar="RUN", help="folder of a run")]
"""The argument of commands that need what only a run's folder holds."""


def file_of(config: Path | None) -> Path | None:
    """Return the configuration of the run in a folder; anything else as it is."""
    return config / "config.yaml" if config is not None and (config / "config.yaml").is_file() else config


def opened(run: str) -> Path:
    """Return the folder that RUN means, fetched first where it is a repository of the hub.

    Raises:
        CheckpointError: there is neither such a folder nor such a checkpoint on the hub.
    """
    from tove_core.hub.checkpoints import open_checkpoint

    return open_checkpoint(run)


def own_run(run: str, command: str, needs: str = "a run's folder, whose config.yaml names its data") -> Path:
    """Return the folder that RUN means to a command that takes no checkpoint of the hub.

    Raises:
        CheckpointError: there is no such folder, and the text reads like a hub id.
    """
    from tove_core.errors import CheckpointError
    from tove_core.hub.checkpoints import is_remote

    if is_remote(run):
        raise CheckpointError(
            f"there is no folder {run!r}, and '{command}' takes none of the hub: it needs {needs}; give a folder"
        )
    return Path(run)
