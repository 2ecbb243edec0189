"""What a run of the demo measures, and the report that is left of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tove_core.contribution import Contribution
from tove_core.evaluation.evaluate import Scores


@dataclass
class SeedResult:
    """What one seed of the demo measured, on the test split."""

    seed: int
    clip_only: Scores
    hub: Scores
    contributions: list[Contribution]
    without_least: Scores
    without_most: Scores
    merged: Scores | None = None
    control: Scores | None = None
    seconds: dict[str, float] = field(default_factory=dict)


REPORT = "report.json"
_OURS = frozenset({"seed", "clip_only", "hub", "contributions", "without_least", "without_most"})
"""What a report tells of every seed."""


def write_report(folder: Path, results: Sequence[SeedResult]) -> None:
    """Write what was measured, but for what was said to every sample."""
    (folder / REPORT).write_text(json.dumps([_plain(one) for one in results], indent=2) + "\n", encoding="utf-8")


def holds_report(folder: Path) -> bool:
    """Tell whether a folder holds what `write_report` wrote; other programs have files of that name."""
    try:
        found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    seeds = found if isinstance(found, list) else []
    return bool(seeds) and all(isinstance(one, dict) and one.keys() >= _OURS for one in seeds)


def _plain(result: SeedResult) -> dict[str, Any]:
    data = asdict(result)
    for scores in data.values():
        if isinstance(scores, dict):
            scores.pop("predictions", None)
    return data
