"""Let a model answer a data set of any size, in any number of processes, so that a stopped run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState

from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.evaluation.files import read_records, write_whole
from tove_core.evaluation.manifest import check_same, read_manifest, write_manifest
from tove_core.evaluation.metrics.score import first_ids
from tove_core.evaluation.predict import predict_batches
from tove_core.evaluation.predictions import read_predictions, write_predictions
from tove_core.evaluation.references import references_of, write_references
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.metrics import Display
from tove_core.training.source import Cache, cached_examples

PREDICTIONS = "predictions.jsonl"
REFERENCES = "references.jsonl"
_DONE = "partial.jsonl"
_PARTS = "part-*.jsonl"
BLOCK = 1024
"""Samples whose images are encoded together and kept; a stopped run loses at most one block's encoding."""


class Collected(NamedTuple):
    """What was said, by sample id in the order of the data, and the pace of this run (None: nothing to do)."""

    said: dict[str, str]
    samples_per_second: float | None


def remaining(folder: Path, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that no earlier run has answered."""
    known = _known(folder)
    return [sample for sample in samples if sample.id not in known]


def begin(folder: Path, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Make the folder of an evaluation, or make sure that it holds the same one.

    Raises:
        ConfigError: it holds another.
    """
    state = PartialState()
    check_same(folder, manifest)
    state.wait_for_everyone()  # all have looked before the first one writes
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if read_manifest(folder) is None:
            write_references(folder / REFERENCES, references_of(samples))
            write_manifest(folder, manifest)
        _gather(folder)
    state.wait_for_everyone()


def collect(
    model: ToveModel,
    samples: Sequence[Sample],
    folder: Path,
    *,
    batch_size: int = 128,
    block: int = BLOCK,
    cache: Cache = True,
    quiet: bool = True,
    **generation: Any,
) -> Collected:
    """Answer what no earlier run has, each process its share; the first one writes all in the data's order.

    After `begin`. Every batch is on disk before the next; `predictions.jsonl` is there only once it is whole.

    Args:
        cache: where features are read from, if anywhere; see `tove_core.training.source`.

    Raises:
        DataError: another process stopped and left samples unanswered, or the cache that is named does not serve.
    """
    state = PartialState()
    todo = remaining(folder, samples)
    state.wait_for_everyone()
    # Neighbours often share an image, so each process gets a run of them.
    low, high = (len(todo) * (state.process_index + k) // state.num_processes for k in (0, 1))
    began = time.perf_counter()
    own = todo[low:high]
    stored = cached_examples(model, own, cache, quiet=quiet) if own else None
    _answer(model, own, stored, folder, state.process_index, batch_size, block, quiet, generation)
    state.wait_for_everyone()
    seconds = time.perf_counter() - began
    if state.is_main_process:
        _gather(folder)
        said = _known(folder)
        if lost := [sample.id for sample in samples if sample.id not in said]:
            raise DataError(
                f"{len(lost)} of {len(samples)} samples have no prediction ({first_ids(lost)}) because their images "
                "cannot be read or a process stopped; take out what a warning names, or run the same command again"
            )
        write_predictions(folder / PREDICTIONS, {sample.id: said[sample.id] for sample in samples})
        (folder / _DONE).unlink(missing_ok=True)
    state.wait_for_everyone()
    return Collected(read_predictions(folder / PREDICTIONS), len(todo) / seconds if todo else None)


def _answer(
    model: ToveModel,
    samples: Sequence[Sample],
    stored: Examples | None,
    folder: Path,
    rank: int,
    batch_size: int,
    block: int,
    quiet: bool,
    generation: Mapping[str, Any],
) -> None:
    samples = stored.samples if stored else samples  # a cache leaves out those with unreadable images
    path = folder / _PARTS.replace("*", f"{rank:05d}")
    with path.open("w", encoding="utf-8") as file, Display(len(samples), "predict", quiet=quiet) as display:
        for start in range(0, len(samples), block):
            part, done = range(start, min(start + block, len(samples))), start
            examples = stored.some(part) if stored else Examples.cached(model, samples[start : part.stop])
            for said in predict_batches(model, examples, batch_size=batch_size, **generation):
                for key, text in said.items():
                    file.write(json.dumps({"id": key, "prediction": text}, ensure_ascii=False) + "\n")
                file.flush()
                done += len(said)
                display.update(done)


def _gather(folder: Path) -> None:
    """Put what the processes wrote into one file, so that the next run may have another number of them."""
    parts = sorted(folder.glob(_PARTS))
    if parts:
        write_whole(folder / _DONE, ({"id": key, "prediction": text} for key, text in _known(folder).items()))
    for part in parts:
        part.unlink()


def _known(folder: Path) -> dict[str, str]:
    """Return what has been said so far; a line that a stopped process left half is not counted."""
    found: dict[str, str] = {}
    if (folder / PREDICTIONS).is_file():
        found |= read_predictions(folder / PREDICTIONS)
    for path in [folder / _DONE, *sorted(folder.glob(_PARTS))]:
        if path.is_file():
            found |= {record["id"]: record["prediction"] for _, record in read_records(path, torn=True)}
    return found
