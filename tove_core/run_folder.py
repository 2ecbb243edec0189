"""What lies in the folder of a run beside its checkpoint, and why there may be none yet. No torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from tove_core.errors import CheckpointError
from tove_core.hub.checkpoints import MANIFEST
from tove_core.yaml_text import parse_yaml

CONFIG = "config.yaml"
"""Where a run's folder holds its resolved configuration."""
STATE = "state"
"""The folder in it of what the run goes on from."""


def states(folder: Path) -> list[Path]:
    """Return the folders of a run's states, the newest first; whether they are whole is not looked at."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


def step_of(state: Path) -> int:
    """Return after which step a state was saved, by the name of its folder; 0 for a name of another form."""
    digits = state.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0


def go_on(output: Path) -> str:
    """Return the command that goes on with the run in a folder, quoted."""
    return f"'tove train {shlex.quote(str(output))} --resume'"


def no_checkpoint(folder: Path) -> CheckpointError:
    """Return the error for a place that was to hold a checkpoint and does not."""
    if not folder.exists():
        return CheckpointError(f"there is no folder {folder}; give the folder of a run or of a checkpoint")
    if not folder.is_dir():
        return CheckpointError(
            f"{folder} is a file, not the folder of a checkpoint; give that of a run or a checkpoint"
        )
    if (folder / CONFIG).is_file():
        return CheckpointError(
            f"{folder} is a run that is not finished: {_how_far(folder)}; go on with {go_on(folder)}"
        )
    return CheckpointError(
        f"{folder} is not a tove checkpoint (it has no {MANIFEST}); give the folder of a run or of a checkpoint"
    )


def _how_far(run: Path) -> str:
    """Return what is known of a run that has begun."""
    newest = next(iter(states(run / STATE)), None)
    if newest is None:
        return "it has no checkpoint, and no state was saved yet"
    try:
        content = parse_yaml((run / CONFIG).read_text(encoding="utf-8"), str(run / CONFIG), "repair the file")
        steps = f" of {content['training']['steps']}"
    except (OSError, ValueError, KeyError, TypeError):
        steps = ""
    return f"its last state is of step {step_of(newest)}{steps}, and it has no checkpoint yet"
