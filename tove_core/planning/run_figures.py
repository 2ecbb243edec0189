"""What a whole run takes beside memory, as data: disk, floating point operations, and hours at a known speed."""

from __future__ import annotations

from dataclasses import dataclass

from tove_core.planning.figures import PARTIAL, Figure, total

THOUSAND = 1000
"""Images that figures stand for where nobody knows how many there are."""


@dataclass(frozen=True)
class DataSeen:
    """What is known of a run's data before it begins."""

    images: int | None
    """Distinct images; None: unknown."""
    counted: str
    """Where that number is from, or why there is none."""
    per_sample: int
    """Images of one sample; where samples differ, of that with most."""
    taken: bool
    """Whether that is only what the readers and `tiles` say, for the data are not here."""
    text: int
    """Tokens of prompt and answer, as long as the longest in a batch."""
    answer: int
    """Those of them that are predicted, of a sample on average."""
    texts: str
    """Where the lengths are from."""


@dataclass(frozen=True)
class Timing:
    """How fast one part ran."""

    part: str
    samples: int
    """At a time: images of a frozen part, samples of a training step."""
    seconds: float
    """That one call took, the median of several."""
    flops: int | None
    """Of one call; None: unknown."""

    @property
    def tflops(self) -> float | None:
        """Sustained TFLOP/s."""
        return None if self.flops is None else self.flops / self.seconds / 1e12


@dataclass(frozen=True)
class Hours:
    """How long a run takes at a known speed; seconds, for each kind of work."""

    frozen: Figure
    training: Figure
    how: str
    """Whose speed that is."""
    timings: tuple[Timing, ...] = ()
    untimed: tuple[str, ...] = ()
    """Parts that could not be timed, and why."""

    @property
    def together(self) -> Figure:
        """Seconds of the run."""
        return total([self.frozen, self.training])


@dataclass(frozen=True)
class Disk:
    """Bytes that a run wants on disks."""

    download: Figure
    features: Figure | None
    """The feature cache; None: there is none on disk."""
    where: str | None
    """Folder of the feature cache."""
    states: Figure
    checkpoint: Figure
    together: Figure


@dataclass(frozen=True)
class RunPlan:
    """What a run takes."""

    steps: int
    batch_size: int
    tokens: int | None
    """Vision tokens of one sample; None: CLIP is not known."""
    data: DataSeen
    per_thousand: bool
    """Whether figures of features are of a thousand images, for nobody knows how many there are."""
    repeated: bool
    """Whether CLIP and experts run at every step; else once an image."""
    disk: Disk
    memory: Figure | None
    """Bytes of main memory that features take which are kept there; None: none are."""
    frozen: Figure
    """Operations of CLIP and experts."""
    training: Figure
    """Operations of all steps: fusion and language model, forward and backward."""
    hours: Hours | None = None

    @property
    def flops(self) -> Figure:
        """Operations of the whole run; without those of features where the number of images is unknown."""
        return whole(self.frozen, self.training, self.per_thousand)


def whole(features: Figure, rest: Figure, per_thousand: bool) -> Figure:
    """Add what depends on the number of images to what does not; it is left out where that number is unknown."""
    return total([rest], partial=True) if per_thousand else total([features, rest])


def times(figure: Figure, count: int, how: str) -> Figure:
    """Return so many times a figure; what is unknown of it stays unknown."""
    if figure.value is None:
        return figure
    said = f"{PARTIAL}, {how}" if figure.how.startswith(PARTIAL) else how
    return Figure(figure.value * count, said, figure.exact)
