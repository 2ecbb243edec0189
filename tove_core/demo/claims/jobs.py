"""The jobs of the bench, each with a result file of its own, so that a stopped bench goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tove_core.demo.claims.measure import Result, detached, merged, scored, train
from tove_core.demo.claims.subjects import WORLD, Subject
from tove_core.demo.claims.variants import CLIP_ONLY, HUB, SHORT, VARIANTS
from tove_core.errors import ConfigError
from tove_core.model import ToveModel

FUSIONS, CURVES, DETACH, MERGE = "fusions", "curves", "detach", "merge"
STAGES = (FUSIONS, CURVES, DETACH, MERGE)
"""Stages in the order they depend on each other: the last two need what the first trained."""

SHARES = (32, 8, 2)
"""The curves' numbers of training images: the whole number divided by each of these."""


@dataclass(frozen=True)
class Job:
    """One result.

    Attributes:
        stage: one of `STAGES`.
        name: the variant; of the last two stages the stage itself.
        seed: of everything random.
        images: training images, for the curves; None: all.
    """

    stage: str
    name: str
    seed: int
    images: int | None = None

    def file(self, folder: Path) -> Path:
        """Return where its result lies."""
        words = f"{self.stage}-{self.name}-{self.images or 'all'}-{self.seed}"
        return folder / f"{words.replace(' + ', '+').replace(', ', '-').replace(' ', '-')}.json"


def jobs(data: str, stages: Sequence[str], seeds: Sequence[int], images: int) -> Iterator[Job]:
    """Yield what a data set is asked, seed by seed, so that a stopped bench has whole seeds.

    Args:
        images: training images there are.
    """
    for seed in seeds:
        for stage in stages:
            if stage == FUSIONS:
                yield from (Job(stage, name, seed) for name in (VARIANTS if data == WORLD else SHORT))
            elif stage == CURVES and data == WORLD:
                yield from (Job(stage, name, seed, images // share) for share in SHARES for name in (CLIP_ONLY, HUB))
            elif stage == MERGE or (stage == DETACH and data == WORLD):
                yield Job(stage, stage, seed)


class Runner:
    """Does the jobs of one data set whose results are missing.

    Args:
        folder: of the results and of the models that later stages start from.
        subject: makes the data ready when the first job needs them.
        settings: what results depend on; results of others are refused.
    """

    def __init__(self, folder: Path, subject: Callable[[], Subject], settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self._make, self._made = subject, None

    @property
    def subject(self) -> Subject:
        """The data, read when first needed."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def result(self, job: Job) -> Result | None:
        """Return a job's result; None where it has not been done.

        Raises:
            ConfigError: it was done with other settings, or its file is damaged.
        """
        path = job.file(self.folder)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}); remove it to do its job again") from error
        if not isinstance(found, dict) or not found.keys() >= {"job", "settings"}:
            raise ConfigError(f"{path} is damaged (it holds no result); remove it to do its job again")
        if found["settings"] != self._settings_of(job):
            raise ConfigError(f"{path} was made with other settings; give another folder, or remove it to do it again")
        return found

    def do(self, job: Job, *, quiet: bool) -> None:
        """Do a job and keep its result."""
        work = {FUSIONS: self._fusion, CURVES: self._fusion, DETACH: self._detach, MERGE: self._merge}[job.stage]
        found = work(job, quiet)
        store(job.file(self.folder), {"job": asdict(job), "settings": self._settings_of(job)} | found)

    def _fusion(self, job: Job, quiet: bool) -> Result:
        part = self.subject.train if job.images is None else self.subject.first(job.images)
        model = train(self.subject, VARIANTS[job.name], job.seed, part, quiet=quiet)
        if job.stage == FUSIONS and job.name in (CLIP_ONLY, HUB):
            place = self._checkpoint(job.name, job.seed)
            if not place.exists():  # one that was saved before its result was lost is the same model
                model.save_pretrained(place)
        return scored(self.subject, model)

    def _detach(self, job: Job, quiet: bool) -> Result:
        return detached(self.subject, self._load(HUB, job.seed))

    def _merge(self, job: Job, quiet: bool) -> Result:
        return merged(self.subject, self._load(HUB, job.seed), self._load(CLIP_ONLY, job.seed), job.seed, quiet=quiet)

    def _checkpoint(self, name: str, seed: int) -> Path:
        return self.folder / "models" / f"{name}-{seed}"

    def _load(self, name: str, seed: int) -> ToveModel:
        place = self._checkpoint(name, seed)
        if not place.is_dir():
            raise ConfigError(f"{place} is missing; run stage {FUSIONS} for seed {seed} first, into the same folder")
        return ToveModel.from_pretrained(place)

    def _settings_of(self, job: Job) -> dict[str, Any]:
        # Without defaults: a field that tove gets later voids no result.
        known = job.name in VARIANTS
        model = VARIANTS[job.name].config(1).model_dump(mode="json", exclude_defaults=True) if known else None
        return self.settings | {"model": model}


def store(path: Path, result: Result) -> None:
    """Write a result, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".tmp").replace(path)
