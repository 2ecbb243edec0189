"""A whole evaluation of a checkpoint: answer, score, and leave a folder that can be scored again without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tove_core.checkpoint import require_decoder
from tove_core.checks import path_given
from tove_core.config import DataConfig
from tove_core.data.sample import Sample
from tove_core.evaluation.collect import begin, collect, remaining
from tove_core.evaluation.cost import Cost, measure_cost
from tove_core.evaluation.manifest import describe, read_manifest, write_manifest
from tove_core.evaluation.predict import predict
from tove_core.evaluation.references import Reference, digest, references_of
from tove_core.evaluation.report import SCORES, report
from tove_core.evaluation.result import Evaluation
from tove_core.evaluation.saved import MISSING, OTHER_TASK, PREDICTIONS, UNREADABLE, open_predictions
from tove_core.evaluation.tasks import Task, check_task, scored_by, task, task_for, tasks_for
from tove_core.folders import write_file
from tove_core.fusion.selector import Selection
from tove_core.hub.checkpoints import find_checkpoint
from tove_core.model import ToveModel
from tove_core.training.examples import MAX_BROKEN, WORKERS
from tove_core.training.processes import PATIENCE, join
from tove_core.training.source import Cache, make_examples


def evaluate_once(
    checkpoint: str | Path,
    samples: Sequence[Sample],
    name: str | None = None,
    *,
    missing: int = 0,
    max_broken: float = MAX_BROKEN,
    device: str | None = None,
    batch_size: int = 128,
    num_beams: int = 1,
    cache: Cache = True,
    workers: int = WORKERS,
    quiet: bool = False,
) -> Evaluation:
    """Answer and score in one process, and keep nothing.

    Args:
        checkpoint: its folder, or that of a run.
        samples: with targets; a task that is named takes those it scores.
        name: of the task; None: by the data, of which captions and questions each get their own.
        missing: how many samples were left out before, because an image is missing.
        max_broken: share of the images that may be unreadable; their samples are left out.
        workers: threads that read images ahead.

    Raises:
        ConfigError: there is no such task.
        DataError: the data set is another task's, or too many images cannot be read.
    """
    checkpoint = path_given(checkpoint, "the checkpoint")
    require_decoder(checkpoint)
    chosen = [task(name)] if name is not None else tasks_for(samples)
    asked, left_out = _take(chosen[0] if name is not None else None, samples, missing)
    parts = {one: references_of(scored_by(one, asked)) for one in chosen}
    for one, references in parts.items():
        check_task(one, references)
    model = ToveModel.from_pretrained(checkpoint, device=device)
    options = {"max_broken": max_broken, "workers": workers, "deployed": True}
    examples = make_examples(model, list(asked), cache=cache, quiet=quiet, **options)
    said = predict(model, examples, batch_size=batch_size, num_beams=num_beams, quiet=quiet)
    readable = {one: [each for each in references if each.id in said] for one, references in parts.items()}
    return Evaluation(
        said,
        tuple(report(one, _about(said, references), references) for one, references in readable.items() if references),
        {**left_out, UNREADABLE: len(asked) - len(said)},
        selection=model.selector.selection if model.selects and model.selector is not None else None,
    )


def evaluate_into(
    folder: str | Path,
    checkpoint: str | Path,
    data: DataConfig,
    samples: Sequence[Sample],
    name: str | None = None,
    *,
    missing: int = 0,
    scored: bool = True,
    device: str | None = None,
    batch_size: int = 128,
    num_beams: int = 1,
    cache: Cache = True,
    quiet: bool = False,
) -> Evaluation:
    """Answer into a folder, in as many processes as torchrun started, then score.

    A stopped evaluation goes on where it stopped, with any number of processes; a finished one is only scored again.

    Args:
        folder: where it goes.
        checkpoint: its folder, or that of a run.
        data: what was read; its `max_broken` says which share of the images may be unreadable.
        samples: what was read. A task that is named takes those it scores.
        name: of the task; None: by the data, or none where nothing is scored.
        missing: how many samples were left out before, because an image is missing.
        scored: whether what was said is scored; if not, samples need no targets.

    Returns:
        what lies in the folder, in every process; with scores in the first.

    Raises:
        ConfigError: the folder holds another evaluation, there is no such task, or no one task fits the data.
        DataError: the data set is another task's, or too many images cannot be read.
    """
    folder, checkpoint = path_given(folder, "the folder"), path_given(checkpoint, "the checkpoint")
    require_decoder(checkpoint)
    state = join(device, patience=PATIENCE)
    chosen = task(name) if name is not None else None
    if chosen is None and scored:
        chosen = task_for(samples)
    asked, left_out = _take(chosen, samples, missing)
    references = references_of(asked)
    if chosen is not None and scored:
        check_task(chosen, references)
    of_task, generation, read = chosen.name if chosen else None, {"num_beams": num_beams}, data.model_dump(mode="json")
    checkpoint = find_checkpoint(checkpoint)
    manifest = describe(checkpoint, of_task, read, digest(references), len(asked), generation)
    begin(folder, {**manifest, "left_out": left_out}, asked)
    if remaining(folder, asked) or not (folder / PREDICTIONS).is_file():
        where = device if state.num_processes == 1 else str(state.device)
        model = ToveModel.from_pretrained(checkpoint, device=where)
        found = collect(
            model, asked, folder, batch_size=batch_size, cache=cache, max_broken=data.max_broken,
            quiet=quiet or not state.is_main_process, **generation,
        )  # fmt: skip
        first = next((sample for sample in asked if sample.id in found.said), None)
        if state.is_main_process and first is not None:
            cost = measure_cost(model, first, found.samples_per_second, **generation)
            write_manifest(folder, {**(read_manifest(folder) or {}), "cost": cost.plain()})
    # One process scores: intervals of many captions take seconds, and all would come to the same.
    result = _kept(folder, chosen if scored and state.is_main_process else None)
    if result.reports:
        _write_scores(folder, result)
    return result


def _kept(folder: Path, chosen: Task | None) -> Evaluation:
    """Return the evaluation that lies in a folder, scored where a task is given."""
    saved = open_predictions(folder)
    selection, cost = (saved.manifest.get("model") or {}).get("selection"), saved.manifest.get("cost")
    return Evaluation(
        dict(saved.said),
        () if chosen is None else (report(chosen, saved.said, saved.references or []),),
        saved.left_out,
        selection=Selection.model_validate(selection) if selection else None,
        cost=Cost(**cost) if cost else None,
        folder=folder,
    )


def _write_scores(folder: Path, result: Evaluation) -> None:
    (scores,) = result.reports
    plain = {**scores.plain(), "left_out": dict(result.left_out)}
    write_file(folder / SCORES, json.dumps(plain, indent=2) + "\n")


def _about(said: Mapping[str, str], references: Sequence[Reference]) -> dict[str, str]:
    return {one.id: said[one.id] for one in references}


def _take(wanted: Task | None, samples: Sequence[Sample], missing: int) -> tuple[Sequence[Sample], dict[str, int]]:
    """Return the samples that a task scores (None: all), and how many there are beside them, by the reason."""
    asked = samples if wanted is None else scored_by(wanted, samples)
    counts = {MISSING: missing, OTHER_TASK: len(samples) - len(asked)}
    return asked, {why: count for why, count in counts.items() if count}
