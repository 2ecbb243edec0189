"""What an evaluation gave: what was said and what it scored, as one value that prints itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tove_core.evaluation.cost import Cost
from tove_core.evaluation.report import Report
from tove_core.evaluation.saved import PREDICTIONS, told
from tove_core.fusion.selector import Selection


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a checkpoint; `str()` gives all there is to say of it.

    Attributes:
        said: what the model said, by sample id.
        reports: the scores of each task; empty where nothing was scored.
        left_out: how many samples were not scored, by the reason.
        selection: how experts were chosen for each image; None where all of them ran.
        cost: what an answer took; None where it was not measured.
        folder: where it was kept; None: nowhere.
    """

    said: Mapping[str, str] = field(repr=False)
    reports: tuple[Report, ...]
    left_out: Mapping[str, int]
    selection: Selection | None = None
    cost: Cost | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        """Return tables, one per task, and a line for each of the rest."""
        lines = ["\n\n".join(map(str, self.reports))] if self.reports else []
        if self.selection is not None:
            lines.append(f"selection: {self.selection}")
        if line := told(self.left_out):
            lines.append(line)
        if self.cost is not None:
            lines.append(f"cost: {self.cost}")
        if self.folder is not None:
            lines += [*self._unscored(self.folder), f"wrote {self.folder}"]
        return "\n".join(lines)

    def _unscored(self, folder: Path) -> list[str]:
        if self.reports:
            return []
        return [
            f"not scored: {len(self.said)} predictions; to score them, tove score {folder / PREDICTIONS} with --data "
            "and --reader of what is right"
        ]
