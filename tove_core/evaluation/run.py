"""A whole evaluation of a checkpoint: answer, score, and leave a folder that can be scored again without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tove_core.config import DataConfig
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError
from tove_core.evaluation.collect import PREDICTIONS, REFERENCES, begin, collect, remaining
from tove_core.evaluation.cost import Cost, measure_cost
from tove_core.evaluation.manifest import describe, read_manifest, write_manifest
from tove_core.evaluation.predict import predict
from tove_core.evaluation.predictions import read_predictions
from tove_core.evaluation.references import Reference, digest, read_references, references_of
from tove_core.evaluation.report import SCORES, report
from tove_core.evaluation.tasks import Task, check_task, task, task_for
from tove_core.model import ToveModel
from tove_core.training.processes import PATIENCE, join
from tove_core.training.source import Cache, make_examples


def evaluate_once(
    checkpoint: Path,
    samples: Sequence[Sample],
    name: str | None = None,
    *,
    device: str | None = None,
    batch_size: int = 128,
    num_beams: int = 1,
    cache: Cache = True,
    quiet: bool = False,
) -> dict[str, str]:
    """Answer and score in one process, print the report, keep nothing; return what was said, by sample id.

    Raises:
        ConfigError: there is no such task, or no one task fits the data.
        DataError: the data set is another task's.
    """
    references = references_of(samples)
    chosen = _choose(name, references)
    model = ToveModel.from_pretrained(checkpoint, device=device)
    examples = make_examples(model, list(samples), cache=cache, quiet=quiet)
    said = predict(model, examples, batch_size=batch_size, num_beams=num_beams, quiet=quiet)
    print(report(chosen, said, references))
    return said


def evaluate_into(
    folder: Path,
    checkpoint: Path,
    data: DataConfig,
    samples: Sequence[Sample],
    name: str | None = None,
    *,
    device: str | None = None,
    batch_size: int = 128,
    num_beams: int = 1,
    cache: Cache = True,
    quiet: bool = False,
) -> dict[str, str]:
    """Answer into a folder, in as many processes as torchrun started, then score and print; return what was said.

    A stopped evaluation goes on where it stopped, with any number of processes; a finished one is only scored again.

    Raises:
        ConfigError: the folder holds another evaluation, there is no such task, or no one task fits the data.
        DataError: the data set is another task's.
    """
    state = join(device, patience=PATIENCE)
    references = references_of(samples)
    chosen = _choose(name, references)
    generation = {"num_beams": num_beams}
    read = data.model_dump(mode="json")
    begin(folder, describe(checkpoint, chosen.name, read, digest(references), len(samples), generation), samples)
    if remaining(folder, samples) or not (folder / PREDICTIONS).is_file():
        where = device if state.num_processes == 1 else str(state.device)
        model = ToveModel.from_pretrained(checkpoint, device=where)
        quiet = quiet or not state.is_main_process
        found = collect(model, samples, folder, batch_size=batch_size, cache=cache, quiet=quiet, **generation)
        if state.is_main_process:
            cost = measure_cost(model, samples[0], found.samples_per_second, **generation)
            write_manifest(folder, {**(read_manifest(folder) or {}), "cost": cost.plain()})
    said = read_predictions(folder / PREDICTIONS)
    if state.is_main_process:
        result = report(chosen, said, references)
        (folder / SCORES).write_text(json.dumps(result.plain(), indent=2) + "\n", encoding="utf-8")
        print(result)
        if cost := (read_manifest(folder) or {}).get("cost"):
            print(f"cost: {Cost(**cost)}")
        print(f"wrote {folder}")
    return said


def _choose(name: str | None, references: Sequence[Reference]) -> Task:
    """Return the task asked for, or the data's own, after looking whether the data are fit for it."""
    chosen = task(name) if name is not None else task_for(references)
    check_task(chosen, references)
    return chosen


@dataclass(frozen=True)
class Saved:
    """A file of predictions with what lies beside it.

    Attributes:
        said: by sample id.
        references: what is right; None where none are kept with it.
        task: the task it was made for; None where that is unknown.
        manifest: of the evaluation; empty without one.
    """

    said: Mapping[str, str]
    references: list[Reference] | None
    task: str | None
    manifest: Mapping[str, Any]


def open_predictions(path: Path) -> Saved:
    """Read the folder of an evaluation, or a file of predictions with the references beside it, if any.

    Raises:
        ConfigError: the folder holds no finished evaluation.
        DataError: a file cannot be read or is malformed.
    """
    folder = path if path.is_dir() else path.parent
    file = path / PREDICTIONS if path.is_dir() else path
    if not file.is_file():
        more = "its evaluation did not finish; run tove evaluate again" if (folder / REFERENCES).is_file() else (
            "give a folder that tove evaluate --out wrote, or a file of predictions"
        )  # fmt: skip
        raise ConfigError(f"{path} has no predictions to score: {more}")
    # Files of somebody else's may lie anywhere: only predictions.jsonl belongs to what is beside it.
    own = file.name == PREDICTIONS and (folder / REFERENCES).is_file()
    references = read_references(folder / REFERENCES) if own else None
    manifest = (read_manifest(folder) or {}) if own else {}
    return Saved(read_predictions(file), references, manifest.get("task"), manifest)
