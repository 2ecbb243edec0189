"""Run what is missing of the bench, and say what there is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tove_core.demo.claims.jobs import STAGES, Job, Runner, jobs, store
from tove_core.demo.claims.measure import Result
from tove_core.demo.claims.subjects import DATA, SIZES, WORLD, settings_of, subject
from tove_core.demo.world import Size
from tove_core.errors import ConfigError


@dataclass(frozen=True)
class Found:
    """The results there are of one data set.

    Attributes:
        data: its name.
        size: how much of it was read, and how long training was.
        results: by job.
        missing: jobs without a result.
    """

    data: str
    size: Size
    results: Mapping[Job, Result]
    missing: Sequence[Job]


def run(
    out: Path,
    *,
    data: Sequence[str] = (WORLD,),
    stages: Sequence[str] = STAGES,
    seeds: Sequence[int] = (0, 1, 2),
    paths: Mapping[str, Path] | None = None,
    sizes: Mapping[str, Size] = SIZES,
    minutes: float | None = None,
    quiet: bool = False,
) -> list[Found]:
    """Do the jobs that have no result yet, and return all results there are of the data sets.

    Args:
        out: gets a folder per data set, with a JSON file per result.
        data: which data sets.
        stages: which stages.
        seeds: which seeds.
        paths: folders of the data sets that are files, by name.
        sizes: by data set.
        minutes: no job begins later than that; None: all are done.

    Raises:
        ConfigError: a name is unknown, a data set's folder is not given, or results were made with other settings.
    """
    _known(data, DATA, "data set")
    _known(stages, STAGES, "stage")
    began = time.perf_counter()
    for name in data:
        runner = _runner(out, name, sizes[name], paths or {})
        for job in jobs(name, stages, seeds, sizes[name].train):
            if runner.result(job) is None and (minutes is None or time.perf_counter() - began < 60 * minutes):
                runner.do(job, quiet=quiet)
    return [collect(out, name, sizes[name], seeds) for name in data]


def collect(out: Path, name: str, size: Size, seeds: Sequence[int]) -> Found:
    """Return the results there are of one data set, of all stages and all seeds, those that are not named too.

    Args:
        seeds: whose results are counted as missing where there are none.

    Raises:
        ConfigError: some were made with other settings.
    """
    runner = _runner(out, name, size, {})
    ends = (path.stem.rpartition("-")[2] for path in (out / name).glob("*-*.json"))
    others = {int(end) for end in ends if end.isdecimal()}
    wanted = list(jobs(name, STAGES, sorted({*seeds, *others}), size.train))
    results = {job: found for job in wanted if (found := runner.result(job)) is not None}
    return Found(name, size, results, [job for job in wanted if job not in results])


def keep(path: Path, found: Sequence[Found]) -> None:
    """Write all results into one file, a line each."""
    lines = [json.dumps({"data": one.data, **result}) for one in found for result in one.results.values()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def unpack(path: Path, out: Path) -> None:
    """Lay the results that `keep` wrote into `out`, where there are none of the same jobs.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        results = [(out / line.pop("data"), Job(**line["job"]), line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} holds no results of this bench ({error}); give a file that --page wrote") from error
    for folder, job, result in results:
        if not job.file(folder).exists():
            store(job.file(folder), result)


def _runner(out: Path, name: str, size: Size, paths: Mapping[str, Path]) -> Runner:
    return Runner(out / name, partial(subject, name, size, paths.get(name)), settings_of(size))


def _known(names: Sequence[str], there_are: Sequence[str], what: str) -> None:
    for name in names:
        if name not in there_are:
            raise ConfigError(f"there is no {what} {name!r} in the claims bench; choose from {', '.join(there_are)}")
