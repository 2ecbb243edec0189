"""Let a model answer a data set of any size, in any number of processes, so that a stopped run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from accelerate import PartialState

from tove_core.data.sample import Sample, distinct_images
from tove_core.errors import CheckpointError, DataError
from tove_core.evaluation.files import read_records, write_whole
from tove_core.evaluation.manifest import check_same, read_manifest, write_manifest
from tove_core.evaluation.metrics.score import first_ids
from tove_core.evaluation.predict import predict_batches
from tove_core.evaluation.predictions import read_predictions, write_predictions
from tove_core.evaluation.references import references_of, write_references
from tove_core.evaluation.saved import PREDICTIONS, REFERENCES, UNREADABLE
from tove_core.model import ToveModel
from tove_core.progress import Display
from tove_core.training.examples import MAX_BROKEN, Examples
from tove_core.training.source import Cache, cached_examples

_DONE = "partial.jsonl"
_PARTS = "part-*.jsonl"
BLOCK = 1024
"""Samples whose images are encoded together and kept; a stopped run loses at most one block's encoding.

A block has more of them where the next ones ask about images that it holds: memory goes by images, not by questions.
"""


class Collected(NamedTuple):
    """What was said, by sample id in the order of the data, and the pace of this run (None: nothing to do).

    Samples whose images cannot be read are not there.
    """

    said: dict[str, str]
    samples_per_second: float | None


def remaining(folder: Path, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that no earlier run has answered; while it is not finished, the unreadable ones among them."""
    known = _known(folder)
    if (folder / PREDICTIONS).is_file():
        known |= dict.fromkeys((read_manifest(folder) or {}).get("unreadable") or (), "")
    return [sample for sample in samples if known.get(sample.id) is None]


def begin(folder: Path, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Make the folder of an evaluation, or make sure that it holds the same one.

    Raises:
        ConfigError: it holds another.
        CheckpointError: it cannot be written.
    """
    state = PartialState()
    check_same(folder, manifest)
    state.wait_for_everyone()  # all have looked before the first one writes
    if state.is_main_process:
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
        found = read_manifest(folder)
        if found is None:
            write_references(folder / REFERENCES, references_of(samples))
            write_manifest(folder, manifest)
        elif found.get("data") != manifest.get("data") and not (folder / PREDICTIONS).is_file():
            write_manifest(folder, {**found, "data": manifest["data"]})  # another `max_broken`
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
    max_broken: float = MAX_BROKEN,
    quiet: bool = True,
    **generation: Any,
) -> Collected:
    """Answer what no earlier run has, each process its share; the first one writes all in the data's order.

    After `begin`. Every batch is on disk before the next; `predictions.jsonl` is there only once it is whole. Samples
    whose images cannot be read are left out, and named in the manifest.

    Args:
        cache: where features are read from, if anywhere; see `tove_core.training.source`.
        max_broken: share of the images of each process that may be unreadable.

    Raises:
        DataError: another process stopped and left samples unanswered, too many images cannot be read, or the cache
            that is named does not serve.
        CheckpointError: a file cannot be written, as on a full disk; what was answered before is kept.
    """
    state = PartialState()
    todo = by_image(remaining(folder, samples))
    state.wait_for_everyone()
    # Neighbours share an image, so each process gets a run of them.
    low, high = (len(todo) * (state.process_index + k) // state.num_processes for k in (0, 1))
    began = time.perf_counter()
    own = todo[low:high]
    found = blocks(model, own, max_broken, cache, quiet=quiet, block=block)
    part = folder / _PARTS.replace("*", f"{state.process_index:05d}")
    _answer(model, own, found, part, batch_size, quiet, generation)
    state.wait_for_everyone()
    seconds = time.perf_counter() - began
    if state.is_main_process:
        _gather(folder)
        _finish(folder, samples)
    state.wait_for_everyone()
    return Collected(read_predictions(folder / PREDICTIONS), len(todo) / seconds if todo else None)


def _finish(folder: Path, samples: Sequence[Sample]) -> None:
    """Write what was said about all samples, and in the manifest which could not be read.

    Raises:
        DataError: some were not reached.
    """
    known = _known(folder)
    if lost := [sample.id for sample in samples if sample.id not in known]:
        raise DataError(
            f"{len(lost)} of {len(samples)} samples have no prediction ({first_ids(lost)}) because a process stopped; "
            "run the same command again"
        )
    said = {sample.id: text for sample in samples if (text := known[sample.id]) is not None}
    if unreadable := [sample.id for sample in samples if sample.id not in said]:
        manifest = read_manifest(folder) or {}
        left_out = {**(manifest.get("left_out") or {}), UNREADABLE: len(unreadable)}
        write_manifest(folder, {**manifest, "left_out": left_out, "unreadable": unreadable})
    write_predictions(folder / PREDICTIONS, said)
    (folder / _DONE).unlink(missing_ok=True)


def blocks(
    model: ToveModel, samples: Sequence[Sample], max_broken: float, cache: Cache, *, quiet: bool, block: int = BLOCK
) -> Iterator[Examples]:
    """Return the readable samples some at a time, so that memory does not grow with the data set.

    They come image by image, so that each is encoded once whatever the order of the data; only where samples of several
    images share some of them may one be encoded again in the next block. Or features are read from a cache, which is
    opened at once.

    Args:
        max_broken: share of the images of all blocks together that may be unreadable.
        block: samples at a time, about.

    Raises:
        DataError: the cache that is named does not serve; and, block by block, too many images are unreadable.
    """
    samples = by_image(samples)
    stored = cached_examples(model, samples, cache, quiet=quiet, max_broken=max_broken) if samples else None
    return _encoded(model, samples, max_broken, block) if stored is None else _stored(stored, block)


def by_image(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples so that those of an image follow each other, in the order in which images are first used."""
    rows = distinct_images(samples)[1]
    return [samples[i] for i in sorted(range(len(samples)), key=rows.__getitem__)]


def _stored(stored: Examples, block: int) -> Iterator[Examples]:
    # A cache leaves out those with unreadable images.
    for start in range(0, len(stored), block):
        yield stored.some(range(start, min(start + block, len(stored))))


def _encoded(model: ToveModel, samples: Sequence[Sample], max_broken: float, block: int) -> Iterator[Examples]:
    images, rows = distinct_images(samples)
    total, broken = len(images), 0
    for start, end in _ends(rows, block):
        # The share is of all images: a block may have more than its part of them.
        examples = Examples.cached(model, samples[start:end], max_broken=1.0, deployed=True)
        broken += len(examples.broken)
        if broken > max_broken * total:
            raise DataError(
                f"{broken} of {total} images cannot be used, more than data.max_broken ({max_broken:g}) allows "
                f"(last: {list(examples.broken.reasons.values())[-1]}); 'tove data check' finds them all"
            )
        yield examples


def _ends(rows: Sequence[tuple[int, ...]], block: int) -> Iterator[tuple[int, int]]:
    """Yield where blocks of samples start and end; one goes on as long as samples see no image that it does not hold.

    Args:
        rows: the images of each sample, by their numbers.
        block: samples of a block, at least, but for the last one.
    """
    start = 0
    while start < len(rows):
        end = min(start + block, len(rows))
        held = {row for own in rows[start:end] for row in own}
        while end < len(rows) and held.issuperset(rows[end]):
            end += 1
        yield start, end
        start = end


def _answer(
    model: ToveModel,
    samples: Sequence[Sample],
    blocks: Iterable[Examples],
    path: Path,
    batch_size: int,
    quiet: bool,
    generation: Mapping[str, Any],
) -> None:
    left = {sample.id: None for sample in samples}
    with _opened(path) as file, Display(len(samples), "predict", quiet=quiet) as display:
        for examples in blocks:
            for said in predict_batches(model, examples, batch_size=batch_size, **generation):
                _write(file, said)
                for key in said:
                    del left[key]
                display.update(len(samples) - len(left))
        _write(file, left)  # what no block held cannot be read


def _write(file: TextIO, said: Mapping[str, str | None]) -> None:
    with _told(Path(file.name)):
        for key, text in said.items():
            file.write(json.dumps({"id": key, "prediction": text}, ensure_ascii=False) + "\n")
        file.flush()


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file to write into; what it could not take was told by then, so that closing it does not tell it again."""
    with _told(path):
        file = path.open("w", encoding="utf-8")
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in a sentence what cannot be written."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error}); make room or give another folder") from error


def _gather(folder: Path) -> None:
    """Put what the processes wrote into one file, so that the next run may have another number of them."""
    parts = sorted(folder.glob(_PARTS))
    if parts:
        write_whole(folder / _DONE, ({"id": key, "prediction": text} for key, text in _known(folder).items()))
    for part in parts:
        part.unlink()


def _known(folder: Path) -> dict[str, str | None]:
    """Return what has been said so far, None where an image cannot be read; a half line of a stop is not counted."""
    found: dict[str, str | None] = {}
    if (folder / PREDICTIONS).is_file():
        found |= read_predictions(folder / PREDICTIONS)
    for path in [folder / _DONE, *sorted(folder.glob(_PARTS))]:
        if path.is_file():
            found |= {record["id"]: record["prediction"] for _, record in read_records(path, torn=True)}
    return found
