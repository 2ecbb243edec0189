"""Whether a run's folder holds the model that its training ends with, and after how many steps that was written."""

from __future__ import annotations

import json
from pathlib import Path

from tove_core.folders import write_file
from tove_core.hub.checkpoints import MANIFEST, find_checkpoint
from tove_core.run_folder import STATE, states
from tove_core.training.metrics import METRICS, last_step

FINISHED = "finished.json"
"""Where a run's states hold the steps of its checkpoint: metrics tell of a step before the checkpoint is written."""


def is_finished(folder: Path) -> bool:
    """Return whether a run's folder holds the checkpoint that training ends with."""
    return (find_checkpoint(folder) / MANIFEST).is_file()


def note_finished(folder: Path, steps: int) -> None:
    """Keep how many steps the checkpoint of a run has seen, for one that is given more; without states none can be.

    Raises:
        CheckpointError: it cannot be written.
    """
    if states(folder / STATE):
        write_file(folder / STATE / FINISHED, json.dumps({"steps": steps}) + "\n")


def finished_steps(folder: Path) -> int:
    """Return how many steps the checkpoint of a finished run has seen; of older versions' runs what the metrics tell.

    Raises:
        CheckpointError: the metrics cannot be read.
    """
    try:
        return int(json.loads((folder / STATE / FINISHED).read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return last_step(folder / METRICS)
