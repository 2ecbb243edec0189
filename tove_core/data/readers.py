"""The readers by name, and what every data set must hold whichever of them read it."""

from __future__ import annotations

import difflib
import importlib
from collections import Counter
from collections.abc import Callable, Sequence

from tove_core.config import DataConfig
from tove_core.data.formats import coco_captions, easy_vqa, jsonl
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError, DataError

Reader = Callable[[DataConfig], list[Sample]]

READERS: dict[str, Reader | str] = {
    "coco-captions": coco_captions.read,
    "easy-vqa": easy_vqa.read,
    "jsonl": jsonl.read,
    "world": "tove_core.demo.reader:read",
}
"""Every reader tove has, by the name used in `data.reader`; `module:function` where it is imported on first use."""

WITH_SPLITS = frozenset({"easy-vqa", "world"})
"""Readers whose data sets come in splits; the others read one file per split and refuse `data.split`."""


def reader(name: str) -> Reader:
    """Return the reader of that name.

    Raises:
        ConfigError: there is none; the nearest name is offered.
    """
    found = READERS.get(name)
    if isinstance(found, str):
        module, _, function = found.partition(":")
        return getattr(importlib.import_module(module), function)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, READERS, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(READERS))}"
    raise ConfigError(f"there is no data reader {name!r}; {advice}")


def read(config: DataConfig, *, inference: bool = False) -> list[Sample]:
    """Read the samples a configuration names, checked, in the order of the data set.

    Args:
        config: reader, path, split and limit (the first so many samples; all are checked).
        inference: nothing will be trained or scored, so that samples need no targets.

    Raises:
        ConfigError: there is no such reader.
        DataError: the data set is malformed, empty, lacks images or targets, or repeats an id.
    """
    samples = reader(config.reader)(config)
    where = str(config.path) if config.path is not None else f"the {config.reader} data set"
    if not samples:
        raise DataError(f"{where} holds no samples; set data.path and data.split to a data set that does")
    _refuse(
        [name for name, count in _ids(samples).items() if count > 1], len(samples), where, "have an id twice or more"
    )
    if not inference:
        bare = [sample.id for sample in samples if not sample.targets]
        _refuse(bare, len(samples), where, "have no target text, which training and scoring need")
    return samples[: config.limit]


def _ids(samples: Sequence[Sample]) -> Counter[str]:
    return Counter(sample.id for sample in samples)


def _refuse(ids: list[str], total: int, where: str, fault: str) -> None:
    if ids:
        first = ", ".join(repr(name) for name in ids[:3])
        raise DataError(f"{len(ids)} of {total} samples of {where} {fault} (first: {first}); repair or remove them")
