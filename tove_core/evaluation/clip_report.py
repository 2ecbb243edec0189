"""What a CLIP tower scores without training, with intervals, under one view of the image or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tove_core.data.sample import Sample
from tove_core.evaluation.clip_tower import own_view
from tove_core.evaluation.metrics.bootstrap import intervals
from tove_core.evaluation.metrics.score import Score
from tove_core.evaluation.report import Row
from tove_core.hub.view import View
from tove_core.tower.base import Tower

Measure = Callable[[View | None], Iterable[Score]]
"""Gives the scores of a tower that sees images that way; None: as its own transform sees them."""


@dataclass(frozen=True)
class TowerReport:
    """Scores of a tower.

    Attributes:
        tower: the name it was loaded by.
        samples: how many were scored.
        images: how many images they are about; intervals draw whole images.
        views: the scores with their 95 % intervals, by what is seen of an image.
    """

    tower: str
    samples: int
    images: int
    views: Mapping[str, Sequence[Row]]

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        views = {
            seen: {row.name: {key: value for key, value in asdict(row).items() if key != "name"} for row in rows}
            for seen, rows in self.views.items()
        }
        return {"clip": self.tower, "samples": self.samples, "images": self.images, "views": views}

    def __str__(self) -> str:
        """Return a table."""
        wide = max(len(row.name) for rows in self.views.values() for row in rows) + 2
        lines = [f"{self.tower}: {self.samples} samples of {self.images} {'image' if self.images == 1 else 'images'}"]
        for seen, rows in self.views.items():
            lines += ["", f"view: {seen}", f"{'metric':<{wide}}{'value':>8}  {'95 % interval':<18}{'n':>8}"]
            for row in rows:
                span = "-" if row.low is None else f"{row.low:.4f} to {row.high:.4f}"
                lines.append(f"{row.name:<{wide}}{row.value:>8.4f}  {span:<18}{row.n:>8}")
        return "\n".join(lines)


def report_tower(
    tower: Tower, samples: Sequence[Sample], measure: Measure, *, view: View = "squash", own_transform: bool = False
) -> TowerReport:
    """Score a tower under a view and, where asked, once more as its own transform sees images.

    Intervals draw whole images; what they are compared with (classes, the other texts and images) stays as it is.

    Args:
        tower: embeds.
        samples: that are scored, for the intervals.
        measure: gives the scores under a view.
        view: what tove shows of an image.
        own_transform: also score under the tower's own transform, as published figures are.

    Raises:
        DataError: what `measure` raises.
    """
    own = own_view(tower)
    views: dict[str, View | None] = {view: view}
    if own_transform and own == view and (own != "pad" or tower.fill is None):
        views = {f"{view}, which is the tower's own transform": view}
    elif own_transform:
        views[f"{own}, the tower's own transform"] = None
    clusters = {sample.id: sample.image_key for sample in samples}
    clusters |= {f"{s.id}#{k}": s.image_key for s in samples for k in range(len(s.targets))}
    found = {seen: _rows(list(measure(one)), clusters) for seen, one in views.items()}
    return TowerReport(tower.reference, len(samples), len({s.image_key for s in samples}), found)


def _rows(scores: Sequence[Score], clusters: Mapping[str, str]) -> list[Row]:
    return [
        Row(score.name, score.value, found.low if found else None, found.high if found else None, len(score))
        for score, found in zip(scores, intervals(scores, clusters), strict=True)
    ]
