"""The data the claims are tested on: the embedded world, easy-VQA and NLVR, all with the world's CLIP and experts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tove_core.config import DataConfig
from tove_core.data.readers import read
from tove_core.data.sample import Sample, distinct_images
from tove_core.demo.reader import samples
from tove_core.demo.splits import TEST, TRAIN, VALIDATION
from tove_core.demo.world import Prepared, Size, training
from tove_core.errors import ConfigError
from tove_core.fusion import fusion_parameters

WORLD, EASY_VQA, NLVR = "world", "easy-vqa", "nlvr"
DATA: tuple[str, ...] = (WORLD, EASY_VQA, NLVR)

SIZES: dict[str, Size] = {
    WORLD: Size(validation=100, test=500, steps=400, merge_steps=1000),
    EASY_VQA: Size(train=38_575, test=4_000, steps=300, merge_steps=200),
    NLVR: Size(train=5_934, test=5_940, steps=200, batch=16, merge_steps=100),
}
"""How much is read, and for how long is trained. `train` and `test` count scenes of the world, samples of a file."""

TINY = Size(train=60, validation=20, test=20, questions=3, steps=3, batch=8, merge_steps=2)
"""For tests: everything runs, nothing is learned."""


@dataclass(frozen=True)
class Parts:
    """The samples of one data set."""

    train: list[Sample]
    test: list[Sample]
    validation: list[Sample]
    """What contributions are measured on; empty where none are."""


class Subject(Prepared):
    """One data set, with the features of its images computed once.

    Attributes:
        name: one of `DATA`.
        size: how much of it is read, and for how long is trained on it.
        parts: its samples.
        budget: parameters that every fusion trains, within one hidden unit: those of the hub with its gate.
    """

    def __init__(self, name: str, size: Size, parts: Parts) -> None:
        self.name, self.size, self.parts = name, size, parts
        self._first: dict[int, list[Sample]] = {}
        super().__init__(parts.train)
        widths = [align.width for align in self.hub.align.values()]  # type: ignore[misc]  # all are Aligns
        self.budget = fusion_parameters(self.hub.config.fusion, self.hub.tower.width, widths)  # type: ignore[arg-type]

    @cached_property
    def questions(self) -> list[Sample]:
        """The test samples that ask something."""
        return [sample for sample in self.parts.test if sample.prompt is not None]

    def first(self, scenes: int) -> list[Sample]:
        """Return the training samples about the first distinct images, the same list every time.

        Raises:
            ConfigError: there are not so many.
        """
        images, rows = distinct_images(self.train)
        if scenes > len(images):
            raise ConfigError(
                f"{scenes} training images were asked for and {self.name} has {len(images)}; ask for less"
            )
        if scenes not in self._first:
            pairs = zip(self.train, rows, strict=True)
            self._first[scenes] = [sample for sample, own in pairs if max(own) < scenes]
        return self._first[scenes]

    def cluster(self, sample: Sample) -> str:
        """Return what samples that must be drawn together share: the statement in NLVR, elsewhere the image."""
        return str(sample.meta["identifier"]) if self.name == NLVR else sample.image_key


def settings_of(size: Size) -> dict[str, Any]:
    """Return what every result on data of that size depends on."""
    return {"size": asdict(size), "training": training(size).model_dump(mode="json", exclude_defaults=True)}


def subject(name: str, size: Size, path: Path | None = None) -> Subject:
    """Read one data set and run CLIP and the experts once on each of its images, as they are asked for.

    Args:
        path: folder of the data set, for those that are files.

    Raises:
        ConfigError: there is no such data set, or its folder is not given.
        DataError: it cannot be read.
    """
    if name == WORLD:
        train = samples(TRAIN, size.train, questions=size.questions)
        return Subject(name, size, Parts(train, samples(TEST, size.test), samples(VALIDATION, size.validation)))
    if name not in DATA:
        raise ConfigError(f"there is no data set {name!r} for the claims; choose from {', '.join(DATA)}")
    if path is None:
        raise ConfigError(f"{name} is not part of tove; give its folder with --{name} PATH")
    if name == EASY_VQA:
        return Subject(
            name, size, Parts(_read(name, path, "train", size.train), _read(name, path, "test", size.test), [])
        )
    # Statements and pictures that both splits have would be recognised, not understood.
    apart = {"disjoint_from": "test", "strict": True, "permutations": 2}
    return Subject(
        name, size, Parts(_read(name, path, "dev", size.train, **apart), _read(name, path, "test", size.test), [])
    )


def _read(reader: str, path: Path, split: str, limit: int, **options: Any) -> list[Sample]:
    return read(DataConfig(reader=reader, path=path, split=split, limit=limit, options=options))
