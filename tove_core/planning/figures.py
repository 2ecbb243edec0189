"""A plan as data: figures that say how they were obtained, one part per row, and their totals. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tove_core.planning.run_figures import RunPlan


@dataclass(frozen=True)
class Figure:
    """A number, and how it was obtained."""

    value: int | None
    """None: unknown."""
    how: str
    """Where it comes from, or why it is unknown."""
    exact: bool = True
    """Whether it is more than an estimate."""

    @classmethod
    def about(cls, value: float, how: str) -> Figure:
        """Return an estimate."""
        return cls(round(value), how, exact=False)

    @classmethod
    def unknown(cls, why: str) -> Figure:
        """Return a figure that could not be obtained."""
        return cls(None, why, exact=False)


NOTHING = Figure(0, "nothing")


@dataclass(frozen=True)
class Part:
    """One part of a planned model."""

    part: str
    """clip, expert, fusion or decoder."""
    name: str
    params: Figure
    download: Figure
    """Bytes still to be fetched."""
    weights: Figure
    """Bytes on the device, in the precision it computes in."""
    activations: Figure
    """Most bytes that are alive at once while it runs on a batch, its weights left out."""
    flops: Figure
    """Per image, a multiply-add counted as two."""
    training: Figure = NOTHING
    """Bytes of gradients and of the optimiser's moments, for what is trained."""
    license: str | None = None
    commercial: bool | None = None
    stored: bool = True
    """Whether it has weights that somebody published."""
    gated: tuple[str, ...] = ()
    """Repositories whose terms must be accepted first."""
    device: str | None = None
    """Where it runs, if not where CLIP does."""
    offloaded: bool = False
    """Whether its weights are on the device only while it runs."""


@dataclass(frozen=True)
class Plan:
    """What building a model will fetch and take; `print` it, or hand `as_dict()` to a program."""

    parts: tuple[Part, ...]
    batch: int
    """Images at a time, of `activations`."""
    training: bool
    refused: str | None
    """Why the licence policy does not admit the model; None: it does."""
    unchecked: tuple[str, ...]
    """Parts the policy could not judge."""
    notes: tuple[str, ...] = ()
    run: RunPlan | None = None
    """What training it as a file says takes beside memory; None: not asked for."""

    @property
    def params(self) -> Figure:
        """Parameters of all parts."""
        return total(part.params for part in self.parts)

    @property
    def download(self) -> Figure:
        """Bytes that building the model will fetch."""
        return total(part.download for part in self.parts)

    @property
    def flops(self) -> Figure:
        """Floating point operations per image."""
        return total(part.flops for part in self.parts)

    @property
    def memory(self) -> dict[str | None, Figure]:
        """Bytes on each device (None: CLIP's): all weights kept there, and the most that one part takes to run.

        Parts run one after another, so only the largest need counts beside what is kept.
        """
        needs = {}
        for device in dict.fromkeys([None, *(part.device for part in self.parts)]):
            here = [part for part in self.parts if part.device == device]
            kept = [part.weights for part in here if not part.offloaded] + [part.training for part in here]
            runs = [total([part.activations, *([part.weights] if part.offloaded else [])]) for part in here]
            most = max((one.value for one in runs if one.value is not None), default=0)
            known = all(one.value is not None and not one.how.startswith(PARTIAL) for one in runs)
            needs[device] = total([*kept, Figure.about(most, "largest need of one part")], partial=not known)
        return needs

    @property
    def licenses(self) -> list[str]:
        """Licences of all experts' weights."""
        found = {part.license for part in self.parts if part.part == "expert" and part.stored}
        return sorted(license for license in found if license)

    @property
    def commercial(self) -> bool | None:
        """Whether the experts' licences allow commercial use together; None: not known of every one.

        What CLIP and the language model allow is known of tove's own alone, and not part of the answer.
        """
        said = [part.commercial for part in self.parts if part.part == "expert" and part.stored]
        return False if False in said else None if None in said else True

    def as_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        memory = {device or "default": asdict(figure) for device, figure in self.memory.items()}
        sums = {"params": asdict(self.params), "download": asdict(self.download), "flops": asdict(self.flops)}
        experts = {"licenses": self.licenses, "commercial": self.commercial}
        return asdict(self) | {"total": sums | {"memory": memory} | {"experts": experts}}

    def __str__(self) -> str:
        """Return a table, the licences, and what is unknown and why."""
        from tove_core.planning.table import render

        return render(self)


PARTIAL = "at least"
"""What `how` begins with where a sum lacks something unknown."""


def total(figures: Iterable[Figure], *, partial: bool = False) -> Figure:
    """Add figures up; unknown ones are left out, and `how` then begins with `PARTIAL`."""
    given = list(figures)
    known = [figure for figure in given if figure.value is not None]
    partial = partial or len(known) < len(given) or any(figure.how.startswith(PARTIAL) for figure in known)
    how = f"{PARTIAL}, for something is unknown" if partial else "sum"
    value = sum(figure.value or 0 for figure in known)
    return Figure(value, how, exact=not partial and all(figure.exact for figure in known))
