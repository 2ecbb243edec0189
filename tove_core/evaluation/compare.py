"""Two files of predictions on the same data, compared metric by metric with paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tove_core.errors import DataError
from tove_core.evaluation.metrics.paired import Difference, compare
from tove_core.evaluation.metrics.score import Candidates, first_ids
from tove_core.evaluation.references import Reference
from tove_core.evaluation.report import measure
from tove_core.evaluation.tasks import Task, clusters_of


@dataclass(frozen=True)
class Comparison:
    """Two runs by every metric of one task: A, B, A - B with its 95 % interval, and p of the paired tests."""

    task: str
    samples: int
    differences: Sequence[Difference]

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        rows = {one.name: {**asdict(one), "difference": one.difference} for one in self.differences}
        return {"task": self.task, "samples": self.samples, "differences": rows}

    def __str__(self) -> str:
        """Return a table."""
        width = max(len(one.name) for one in self.differences) + 2
        head = (
            f"{'metric':<{width}}{'A':>8}{'B':>8}{'A - B':>9}  {'95 % interval':<20}{'p':>7}{'A only':>8}{'B only':>8}"
        )
        lines = [f"{self.task}: {self.samples} samples", f"{head}{'McNemar p':>11}"]
        for one in self.differences:
            span = f"{one.low:+.4f} to {one.high:+.4f}"
            cells = f"{one.a:>8.4f}{one.b:>8.4f}{one.difference:>+9.4f}  {span:<20}{one.p:>7.3f}"
            if one.mcnemar is not None:
                cells += f"{one.only_a:>8}{one.only_b:>8}{one.mcnemar:>11.3g}"
            lines.append(f"{one.name:<{width}}{cells}")
        return "\n".join(lines)


def compare_predictions(
    task: Task, a: Candidates, b: Candidates, references: Sequence[Reference], other: Sequence[Reference] | None = None
) -> Comparison:
    """Compare what two runs said about the same samples; questions about one image are drawn together.

    Args:
        task: whose metrics are compared.
        a: what the first run said, by sample id.
        b: what the second said.
        references: what is right.
        other: the references kept with the second file, which must be the same; None: none are.

    Raises:
        DataError: the two were made for other data, or predictions are missing or extra.
    """
    if other is not None:
        mine, theirs = ({one.id: (one.prompt, one.targets) for one in those} for those in (references, other))
        odd = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if odd:
            raise DataError(
                f"the two were made for different data: {len(odd)} samples differ ({first_ids(odd)}); "
                "evaluate both runs on one data set"
            )
    clusters = clusters_of(task, references)
    scores, rivals = (measure(task, said, references).scores for said in (a, b))
    differences = [compare(x, y, clusters) for x, y in zip(scores, rivals, strict=True)]
    return Comparison(task.name, len(references), differences)
