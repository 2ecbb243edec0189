"""The readers by name, and what every data set must hold whichever of them read it."""

from __future__ import annotations

import difflib
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

from tove_core.config import DataConfig, SourceConfig
from tove_core.data.collector import without_collector
from tove_core.data.files import path_key, shortened
from tove_core.data.format import Format
from tove_core.data.images import FileImage, MissingImage
from tove_core.data.malformed import noting, one_row
from tove_core.data.sample import ImageRef, Sample, distinct_images
from tove_core.data.shards import url_of
from tove_core.errors import ConfigError, DataError
from tove_core.language.marks import IMAGE, wrong_marks

_HERE = "tove_core.data.formats"

READERS: dict[str, Format] = {
    "blip": Format(f"{_HERE}.caption_lists:read_blip"),
    "coco-captions": Format(f"{_HERE}.coco_captions:read"),
    "csv": Format(f"{_HERE}.delimited:read", "TableOptions"),
    "datasets": Format(f"{_HERE}.hf_datasets:read", "HubOptions", splits=True),
    "easy-vqa": Format(f"{_HERE}.easy_vqa:read", splits=True, test=True),
    "folder": Format(f"{_HERE}.image_folder:read", "FolderOptions"),
    "gqa": Format(f"{_HERE}.questions:read_gqa", "GqaOptions"),
    "jsonl": Format(f"{_HERE}.jsonl:read", "RecordOptions"),
    "karpathy": Format(f"{_HERE}.caption_lists:read_karpathy", "KarpathyOptions", splits=True, test=True),
    "llava": Format(f"{_HERE}.llava:read", "LlavaOptions"),
    "nlvr": Format(
        f"{_HERE}.nlvr:read",
        "NlvrOptions",
        splits=True,
        test=True,
        images="images_of",
        apart=("disjoint_from", "strict"),
    ),
    "nocaps": Format(f"{_HERE}.coco_captions:read_nocaps"),
    "pope": Format(f"{_HERE}.questions:read_pope"),
    "tsv": Format(f"{_HERE}.delimited:read", "TableOptions"),
    "vqav2": Format(f"{_HERE}.questions:read_vqav2", "VqaOptions"),
    "vsr": Format(f"{_HERE}.questions:read_vsr", "VsrOptions"),
    "webdataset": Format(f"{_HERE}.webdataset:read", "ShardOptions"),
    "world": Format("tove_core.demo.reader:read", splits=True, test=True),
}
"""Every reader tove has, by the name used in `data.reader`."""

WITH_SPLITS = frozenset(name for name, one in READERS.items() if one.test)
"""Readers whose data sets publish a split called test, which a run is scored on when nothing else is said."""


def reader(name: str) -> Format:
    """Return the reader of that name.

    Raises:
        ConfigError: there is none; the nearest name is offered.
    """
    if name in READERS:
        return READERS[name]
    near = difflib.get_close_matches(name, READERS, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(READERS))}"
    raise ConfigError(f"there is no data reader {name!r}; {advice}")


def options_for(split: str, data: SourceConfig) -> dict[str, Any]:
    """Return a data set's options for a split of it: what keeps its own split apart from another holds there alone."""
    if split == data.split or data.reader not in READERS:
        return data.options
    return {name: value for name, value in data.options.items() if name not in READERS[data.reader].apart}


class Part(NamedTuple):
    """One data set as its reader gave it: words that say which, its limit and its samples, all of them."""

    where: str
    limit: int | None
    samples: list[Sample]
    malformed: Sequence[str] = ()
    """What is wrong with rows that were left out, a sentence each; only where `collect` was asked for them."""


class Found(NamedTuple):
    """Samples as `read` gives them, and how many of them were left out because an image is missing."""

    samples: list[Sample]
    missing: int


def read(config: DataConfig, *, inference: bool = False, key: str = "data.path") -> list[Sample]:
    """Read the samples a configuration names, checked, in the order of the data set.

    Samples whose image is missing are left out with a warning that names them, as far as `config.max_broken` allows.

    Args:
        config: a data set and its limit (the first so many samples; all are checked), or a mixture of several.
        inference: nothing will be trained or scored, so that samples need no targets.
        key: what sets the path, for the error that it leads nowhere.

    Raises:
        ConfigError: there is no such reader, or it has no such option.
        DataError: the data set is malformed, empty, lacks images or targets, or repeats an id.
    """
    return read_counted(config, inference=inference, key=key).samples


def read_counted(config: DataConfig, *, inference: bool = False, key: str = "data.path") -> Found:
    """Do as `read`, and count what is left out; with a limit, only what stands before the last sample it takes."""
    found, missing = [], 0
    with path_key(key):
        parts = collect(config)
    for part in parts:
        present = _present(part, config.max_broken)
        _check(present, part.where, inference, key)
        samples = present if part.limit is None else present[: part.limit]
        if len(present) < len(part.samples):
            full = part.limit is not None and len(present) >= part.limit
            looked_at = _until(part.samples, samples[-1]) if full else len(part.samples)
            missing += looked_at - len(samples)
        found = found + samples if found else samples
    return Found(found, missing)


def _until(samples: Sequence[Sample], last: Sample) -> int:
    """Return how many samples there are up to that one."""
    return next(number for number, sample in enumerate(samples, start=1) if sample is last)


def collect(config: DataConfig, *, malformed: bool = False) -> list[Part]:
    """Read every part of a configuration without checking or leaving out anything; one part where there is no mixture.

    Samples of a mixture carry the name of their part, in front of their ids too, and its weight.

    Args:
        config: a data set, or a mixture of several.
        malformed: leave malformed rows out and list them in their part, rather than stop at the first.

    Raises:
        ConfigError: there is no such reader, or it has no such option.
        DataError: a data set is malformed, and not only in some of its rows where these are listed.
    """
    if not config.mixture:
        return [_collected(config, malformed)]
    parts = []
    for one in config.mixture:
        name, part = one.name or one.reader, _collected(one, malformed)
        samples = [replace(s, id=f"{name}/{s.id}", source=name, weight=one.weight) for s in part.samples]
        limits = [limit for limit in (one.limit, config.limit) if limit is not None]
        parts.append(Part(f"{name} ({part.where})", min(limits, default=None), samples, part.malformed))
    return parts


def _collected(config: SourceConfig, malformed: bool) -> Part:
    with noting() if malformed else nullcontext([]) as noted:
        with without_collector():
            samples = reader(config.reader).read(config)
        for sample in samples:
            if sample.prompt is not None and IMAGE in sample.prompt:
                fault = wrong_marks(sample.prompt, len(sample.images))
                if fault is not None:
                    with one_row:
                        raise DataError(f"sample {sample.id!r} of {_where(config)}: {fault}")
    if config.tiles is not None:
        from tove_core.data.parts import tiled

        samples = [replace(sample, image=tiled(sample.images, config.tiles)) for sample in samples]
    return Part(_where(config), config.limit, samples, noted)


def _where(config: SourceConfig) -> str:
    if config.path is None:
        return f"the {config.reader} data set"
    url = url_of(config.path)
    return str(config.path) if url is None else url.partition("?")[0]


def repeated_ids(samples: Sequence[Sample]) -> list[str]:
    """Return the ids that several samples have, in order."""
    if len({sample.id for sample in samples}) == len(samples):
        return []
    return [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]


def missing_image(image: ImageRef) -> MissingImage | None:
    """Return what stands for an image, or the one it is cut from, that was not there; None where it was."""
    if isinstance(image, MissingImage):
        return image
    whole = getattr(image, "whole", None)  # of a part of an image
    return None if whole is None else missing_image(whole)


def _present(part: Part, limit: float) -> list[Sample]:
    """Return the samples whose images are all there."""
    unsure = [sample for sample in part.samples if type(sample.image) is not FileImage]
    if not any(missing_image(image) for sample in unsure for image in sample.images):
        return part.samples
    images, rows = distinct_images(part.samples)
    missing = {row: one for row, image in enumerate(images) if (one := missing_image(image)) is not None}
    places = ", ".join(dict.fromkeys(one.place for one in missing.values()))
    first = ", ".join(map(shortened, list(dict.fromkeys(one.name for one in missing.values()))[:3]))
    counted = f"{len(missing)} of {len(images)} images are not in {places} (first: {first})"
    if len(missing) > limit * len(images):
        raise DataError(f"{counted}; add them, take their samples out, or raise data.max_broken (now {limit:g})")
    kept = [sample for sample, own in zip(part.samples, rows, strict=True) if missing.keys().isdisjoint(own)]
    gone = len(part.samples) - len(kept)
    warnings.warn(f"{counted}; {gone} of {len(rows)} samples of {part.where} are left out", stacklevel=4)
    return kept


def _check(samples: list[Sample], where: str, inference: bool, key: str) -> None:
    if not samples:
        raise DataError(f"{where} holds no samples; set {key} to a data set that does, or take another split")
    _refuse(repeated_ids(samples), len(samples), where, "have an id twice or more")
    if not inference:
        bare = [sample.id for sample in samples if not sample.targets]
        _refuse(bare, len(samples), where, "have no target text, which training and scoring need")


def _refuse(ids: list[str], total: int, where: str, fault: str) -> None:
    if ids:
        first = ", ".join(repr(name) for name in ids[:3])
        raise DataError(f"{len(ids)} of {total} samples of {where} {fault} (first: {first}); repair or remove them")
