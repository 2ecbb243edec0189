"""Predictions that lie on disk, with what lies beside them: read again without the model. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tove_core.errors import ConfigError
from tove_core.evaluation.manifest import read_manifest
from tove_core.evaluation.predictions import read_predictions
from tove_core.evaluation.references import Reference, read_references
from tove_core.evaluation.tasks import S, scored_by, task

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
        more = "its evaluation did not finish; run tove evaluate again" if (folder / REFERENCES).is_file() else (
            "give a folder that tove evaluate --out wrote, or a file of predictions"
        )  # fmt: skip
        raise ConfigError(f"{path} has no predictions to score: {more}")
    # Files of somebody else's may lie anywhere: only predictions.jsonl belongs to what is beside it.
    own = file.name == PREDICTIONS and (folder / REFERENCES).is_file()
    manifest = (read_manifest(folder) or {}) if own else {}
    found = Saved(read_predictions(file), None, manifest.get("task"), manifest)
    if not own:
        return found
    kept = [one for one in read_references(folder / REFERENCES) if one.id not in found.unreadable]
    return Saved(found.said, kept, found.task, manifest)


def told(left_out: Mapping[str, int]) -> str:
    """Return the line that says how many samples were left out and why; "" where none were."""
    parts = [f"{count} {'sample' if count == 1 else 'samples'} ({why})" for why, count in left_out.items() if count]
    return f"left out: {', '.join(parts)}" if parts else ""
