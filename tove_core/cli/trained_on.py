"""Tells a score on what a run was trained on from one on held-out data. Imports no torch before it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tove_core import environment

if TYPE_CHECKING:
    from tove_core.config import DataConfig


def tell_trained_on(run: Path, data: DataConfig, name: str) -> None:
    """Say on stderr where data are those that a run was trained on, which nobody may have meant.

    Formats without splits and a configuration without `validation` lead there. Of several processes the first speaks.

    Args:
        run: the run's folder; what holds no configuration says nothing of its data.
        name: how the run was named.
    """
    from tove_core.config import RunConfig
    from tove_core.settings import read_config
    from tove_core.training.run import CONFIG

    if environment.rank() or not (run / CONFIG).is_file():
        return
    if _files(data) == _files(read_config(RunConfig, run / CONFIG).data):
        typer.echo(
            f"note: {name} was trained on these data, so that they say little about others; name held-out data with "
            "--data, or as validation in the configuration",
            err=True,
        )


def _files(data: DataConfig) -> dict[str, object]:
    """Return what data are read from and how, in whichever way the path was written, and however many of them."""
    # How often a part of a mixture comes, and under which name, changes none of its samples.
    parts = [part.model_dump(exclude={"weight", "name", "limit"}) for part in data.mixture]
    known = data.model_dump(exclude={"limit", "max_broken", "images", "tiles", "mixture"})
    return known | {"path": data.path and Path(data.path).absolute(), "mixture": parts}
