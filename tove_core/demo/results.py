"""What a run of the demo measures."""

from __future__ import annotations

from dataclasses import dataclass, field

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
