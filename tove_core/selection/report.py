"""What choosing experts image by image came to, beside what a fixed choice of the same cost comes to."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tove_core.fusion.selector import Selection
from tove_core.spec import Frozen

SELECTION = "selection.yaml"
"""Where a folder made by `tove select` says how the selector came about and how it did."""

STATIC, MIXED, ALL, NONE = "best fixed set", "two fixed sets at random", "all experts", "no expert"
CHOSEN, SHUFFLED, RANDOM = "selection", "selection, images shuffled", "experts at random"


class Row(Frozen):
    """One way to choose experts, on the samples that are scored."""

    loss: float = Field(description="mean over samples of nats per answer token")
    cost: float = Field(description="mean cost of an image, as a share of running all")


class Difference(Frozen):
    """The loss of the selection less that of a rival: below zero, the selection is better."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In words: whether the 95 % interval leaves zero out."""
        return "better than" if self.high < 0 else "worse than" if self.low > 0 else "not told apart from"


class SelectionReport(Frozen):
    """How a selector came about, and how it did on samples that nothing was learnt from or chosen on."""

    run: Path | None = Field(default=None, description="that it was made from")
    seed: int
    steps: int
    limit: int | None = Field(default=None, description="how many samples were to be taken at most; none: no bound")
    samples: dict[str, int] = Field(description="how many were learnt from, chosen on, and scored")
    selection: Selection
    rows: dict[str, Row]
    ran: dict[str, float] = Field(description="share of the images each expert ran on")
    fixed: list[str] = Field(description="the best fixed set")
    mixture: tuple[list[str], list[str], float] = Field(description="two fixed sets, and the chance of the second")
    against: dict[str, Difference] = Field(description="the selection against its rivals, image by image")

    @property
    def conclusion(self) -> str:
        """What follows, in a sentence."""
        fixed, mixed = self.against[STATIC], self.against[MIXED]
        if fixed.high < 0 and mixed.high < 0:
            return "choosing image by image beats every fixed choice of that cost"
        if fixed.high < 0:
            return (
                "choosing image by image beats one fixed set, but not two of them mixed at random: what it gains may "
                "come from spending the whole budget, and not from looking at the image"
            )
        return "choosing image by image does not beat a fixed choice: 'tove detach' to the best fixed set is simpler"

    def __str__(self) -> str:
        """Return a table, and what follows from it."""
        width = max(map(len, (*self.rows, *self.ran)))
        lines = [f"{'':<{width}}{'loss':>10}{'cost':>8}"]
        lines += [f"{name:<{width}}{row.loss:>10.4f}{row.cost:>8.3f}" for name, row in self.rows.items()]
        lines += ["", f"{'expert':<{width}}{'ran on':>10}{'cost':>8}"]
        lines += [
            f"{name:<{width}}{share:>10.1%}{self.selection.costs[name]:>8.3f}" for name, share in self.ran.items()
        ]
        first, second, chance = self.mixture
        lines += ["", f"{STATIC}: {_listed(self.fixed)}"]
        lines += [f"{MIXED}: {_listed(first)}; on {chance:.0%} of the images {_listed(second)}"] if chance else []
        for name, found in self.against.items():
            lines.append(
                f"selection against {name}: {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}), "
                f"{found.verdict} it"
            )
        return "\n".join([*lines, self.conclusion])


def _listed(experts: list[str]) -> str:
    return ", ".join(experts) or "none"
