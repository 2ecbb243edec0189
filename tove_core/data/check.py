"""A look at a whole data set before anything is trained on it: what it holds, and every fault in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tove_core.data.broken import try_image
from tove_core.data.readers import Part, missing_image, repeated_ids
from tove_core.data.sample import ImageRef, Sample, distinct_images, image_key

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Range:
    """Least, middle and largest of some numbers."""

    low: int
    middle: float
    high: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Range | None:
        """Return the range of values, None where there are none."""
        return cls(min(values), median(values), max(values)) if values else None

    def __str__(self) -> str:
        """Return the three numbers, or the one that they all are."""
        if self.low == self.high:
            return f"{self.low:,}"
        return f"{self.low:,} to {self.high:,}, median {self.middle:,.0f}"


@dataclass(frozen=True)
class DataReport:
    """What one data set holds.

    Attributes:
        where: the data set.
        samples: how many samples there are.
        captions: how many of them ask nothing.
        images: how many distinct images they show.
        images_per_sample: how many one sample shows.
        targets_per_sample: how many right texts one has.
        prompt_words, target_words: lengths of the texts, in words; None where there are none.
        sides: of the images, in pixels, the shorter and the longer together; None where none was decoded.
        kinds: samples by kind.
        malformed: what is wrong with rows that cannot be read, a sentence each; the rest of the report is without them.
        missing: names of images that are not there.
        broken: why images cannot be decoded, a sentence each; None: none was decoded.
        repeated: ids of several samples.
        bare: ids of samples without target text.
        shown: some samples, from the whole length of the data set.
    """

    where: str
    samples: int
    captions: int
    images: int
    images_per_sample: Range | None
    targets_per_sample: Range | None
    prompt_words: Range | None
    target_words: Range | None
    sides: Range | None
    kinds: dict[str, int]
    malformed: list[str]
    missing: list[str]
    broken: list[str] | None
    repeated: list[str]
    bare: list[str]
    shown: list[Sample] = field(repr=False)

    @property
    def faults(self) -> int:
        """How many things are wrong; a data set without samples is one."""
        found = (self.malformed, self.missing, self.broken or [], self.repeated, self.bare)
        return sum(map(len, found)) + (not self.samples)

    def plain(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        ranges = ("images_per_sample", "targets_per_sample", "prompt_words", "target_words", "sides")
        report: dict[str, Any] = {name: value for name, value in vars(self).items() if name not in (*ranges, "shown")}
        for name in ranges:
            found: Range | None = getattr(self, name)
            report[name] = None if found is None else vars(found)
        report["faults"] = self.faults
        report["shown"] = [
            {"id": s.id, "images": list(s.image_keys), "prompt": s.prompt, "targets": list(s.targets), "kind": s.kind}
            for s in self.shown
        ]
        return report


def check(part: Part, *, show: int = 3, decode: bool = True, progress: Progress | None = None) -> DataReport:
    """Look at every sample and, unless told otherwise, decode every distinct image once.

    Args:
        part: one data set, as `readers.collect` gives it; its limit is respected.
        show: how many samples the report shows.
        decode: look into the images; otherwise only whether they are there.
        progress: called with images done and their number.
    """
    samples = part.samples[: part.limit]
    images, rows = distinct_images(samples)
    missing = {row: one.name for row, image in enumerate(images) if (one := missing_image(image)) is not None}
    broken, sides = _decoded(images, missing.keys(), progress) if decode else (None, [])
    return DataReport(
        where=part.where,
        samples=len(samples),
        captions=sum(sample.prompt is None for sample in samples),
        images=len(images),
        images_per_sample=Range.of([len(own) for own in rows]),
        targets_per_sample=Range.of([len(sample.targets) for sample in samples]),
        prompt_words=Range.of([len(s.prompt.split()) for s in samples if s.prompt is not None]),
        target_words=Range.of([len(text.split()) for s in samples for text in s.targets]),
        sides=Range.of(sides),
        kinds=dict(Counter(sample.kind for sample in samples)),
        malformed=list(part.malformed),
        missing=list(dict.fromkeys(missing.values())),
        broken=broken,
        repeated=repeated_ids(samples),
        bare=[sample.id for sample in samples if not sample.targets],
        shown=[samples[i * len(samples) // show] for i in range(show)] if len(samples) > show else samples[:show],
    )


def _decoded(
    images: Sequence[ImageRef], skip: Collection[int], progress: Progress | None
) -> tuple[list[str], list[int]]:
    """Return why images cannot be decoded, and the sides of those that can."""
    reasons, sides = [], []
    for row, image in enumerate(images):
        if row not in skip:
            pixels, reason = try_image(image)
            if pixels is None:
                reasons.append(_named(image, str(reason)))
            else:
                sides += pixels.shape[1:]
        if progress is not None:
            progress(row + 1, len(images))
    return reasons, sides


def _named(image: ImageRef, reason: str) -> str:
    """Return a sentence that names the image: bytes out of an archive do not know their own name."""
    name = image_key(image).partition(":")[2]
    return reason if name in reason else f"{name}: {reason}"
