"""Predictions that lie on disk, with what lies beside them: read again without the model. No torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tove_core.errors import ConfigError
from tove_core.evaluation.manifest import MANIFEST, read_manifest
from tove_core.evaluation.predictions import check_ids, read_predictions
from tove_core.evaluation.references import Reference, check_same_data, read_references
from tove_core.evaluation.report import SCORES
from tove_core.evaluation.tasks import S, Task, scored_by, task

PREDICTIONS = "predictions.jsonl"
REFERENCES = "references.jsonl"

MISSING = "image missing"
UNREADABLE = "image unreadable"
OTHER_TASK = "of another task"
"""Why samples were left out."""


@dataclass(frozen=True)
class Saved:
    """A file of predictions with what lies beside it.

    Attributes:
        said: by sample id.
        references: what is right, of the samples that were answered; None where none are kept with it.
        task: the task it was made for; None where that is unknown.
        manifest: of the evaluation; empty without one.
    """

    said: Mapping[str, str]
    references: list[Reference] | None
    task: str | None
    manifest: Mapping[str, Any]

    @property
    def left_out(self) -> dict[str, int]:
        """How many samples of its data set were not answered, by the reason."""
        return dict(self.manifest.get("left_out") or {})

    @property
    def unreadable(self) -> frozenset[str]:
        """Ids of the samples whose images could not be read."""
        return frozenset(self.manifest.get("unreadable") or ())

    def answered(self, samples: Sequence[S]) -> list[S]:
        """Return those of its data set's samples that it is about: of its task, with images that could be read."""
        asked = scored_by(task(self.task), samples) if self.task is not None else samples
        return [one for one in asked if one.id not in self.unreadable]


def open_predictions(path: Path) -> Saved:
    """Read the folder of an evaluation, or a file of predictions with the references beside it, if any.

    Raises:
        ConfigError: the folder holds no finished evaluation.
        DataError: a file cannot be read or is malformed.
    """
    folder = path if path.is_dir() else path.parent
    file = path / PREDICTIONS if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{path} has no predictions to score: {_where_predictions_are(path, folder)}")
    # Files of somebody else's may lie anywhere: only predictions.jsonl belongs to what is beside it.
    own = file.name == PREDICTIONS and (folder / REFERENCES).is_file()
    manifest = (read_manifest(folder) or {}) if own else {}
    found = Saved(read_predictions(file), None, manifest.get("task"), manifest)
    if not own:
        return found
    kept = [one for one in read_references(folder / REFERENCES) if one.id not in found.unreadable]
    return Saved(found.said, kept, found.task, manifest)


def _where_predictions_are(path: Path, folder: Path) -> str:
    """Return what to do where a path has no predictions: a run's folder may hold evaluations, each in a folder."""
    if (folder / REFERENCES).is_file():
        return "its evaluation did not finish; run tove evaluate again"
    inside = sorted(str(file.parent) for file in path.glob(f"*/{PREDICTIONS}")) if path.is_dir() else []
    if inside:
        return f"give an evaluation inside it, {' or '.join(inside)}"
    return "give a folder that tove evaluate --out wrote, or a file of predictions"


def is_report(path: Path) -> bool:
    """Return whether a file holds the figures of a scoring, and not an evaluation's own, so that it may go."""
    if path.name == SCORES and (path.parent / MANIFEST).is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        isinstance(found, dict) and "samples" in found and any(k in found for k in ("scores", "differences", "views"))
    )


def is_predictions(path: Path) -> bool:
    """Return whether a file holds predictions alone, and not an evaluation's own, so that it may go."""
    if path.name == PREDICTIONS and (path.parent / MANIFEST).is_file():
        return False
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and set(first) == {"id", "prediction"}


def divide(
    wanted: Task, references: Sequence[Reference], unreadable: Collection[str], left_out: dict[str, int]
) -> tuple[list[Reference], set[str]]:
    """Return the references that are scored, and the ids of the others.

    Args:
        wanted: takes the samples it scores.
        references: of the whole data set.
        unreadable: ids that were not answered, because their images could not be read.
        left_out: how many samples are not there already, by the reason; what is found here is added.

    Raises:
        DataError: the task scores none of them.
    """
    readable = [one for one in references if one.id not in unreadable]
    scored = scored_by(wanted, readable)
    for why, count in ((UNREADABLE, len(references) - len(readable)), (OTHER_TASK, len(readable) - len(scored))):
        if count:
            left_out[why] = left_out.get(why, 0) + count
    return scored, {one.id for one in references} - {one.id for one in scored}


def matching(path: Path, saved: Saved, scored: Sequence[Reference], out: Collection[str]) -> dict[str, str]:
    """Return what a file says about the samples that are scored.

    Args:
        path: what the file is called.
        saved: what it holds, and what lies beside it.
        scored: what is right.
        out: ids of the data set's other samples, about which it may say something too.

    Raises:
        DataError: it is about other samples, or about the same with other questions, answers or kinds.
    """
    said = {key: text for key, text in saved.said.items() if key not in out}
    check_ids(said, [one.id for one in scored], str(path))
    if saved.references is not None and saved.references is not scored:
        check_same_data(scored, [one for one in saved.references if one.id not in out], str(path))
    return said


def told(left_out: Mapping[str, int]) -> str:
    """Return the line that says how many samples were left out and why; "" where none were."""
    parts = [f"{count} {'sample' if count == 1 else 'samples'} ({why})" for why, count in left_out.items() if count]
    return f"left out: {', '.join(parts)}" if parts else ""
