"""What a run's folder records of how its model did: evaluations of this very checkpoint, and of no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from tove_core.errors import ToveError
from tove_core.evaluation.manifest import read_manifest
from tove_core.evaluation.report import SCORES, Row
from tove_core.evaluation.table import read_evaluation
from tove_core.hub.checkpoints import MANIFEST, find_checkpoint
from tove_core.hub.digest import sha256


class Measured(NamedTuple):
    """One evaluation: the data, as their configuration names them, the task, and its scores."""

    data: str
    task: str
    samples: int
    rows: Sequence[Row]


def evaluations(run: Path) -> list[Measured]:
    """Return the finished evaluations in the folders of a run (`tove evaluate RUN --out RUN/NAME`), by folder name.

    An evaluation of another model, or a folder that cannot be read as one, is none of this checkpoint's.
    """
    manifest = find_checkpoint(run) / MANIFEST
    if not manifest.is_file():
        return []
    own, found = sha256(manifest), []
    for folder in sorted(run.iterdir()):
        if not (folder / SCORES).is_file():
            continue
        try:
            told, scored = read_manifest(folder) or {}, read_evaluation(folder)
        except ToveError:
            continue
        if (told.get("model") or {}).get("sha256") == own:
            rows = list(scored.scores.values())
            found.append(Measured(_data(told["data"]), scored.task, scored.samples, rows))
    return found


def _data(told: dict[str, object]) -> str:
    """Return the name of a data set without the folders of this machine."""
    path, split = told.get("path"), told.get("split")
    name = PurePath(str(path)).name if path else str(told.get("reader"))
    return f"{name} ({split})" if split else name
