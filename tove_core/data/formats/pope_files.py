"""Which files of POPE are read, and the way of choosing objects that each name says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tove_core.errors import DataError

SPLITS = ("random", "popular", "adversarial")
_WORDS = re.compile(r"[^a-z]+")


class PopeFile(NamedTuple):
    """One file, the kind of its questions, and what their ids begin with."""

    path: Path
    kind: str
    prefix: str


def pope_files(path: Path) -> list[PopeFile]:
    """Return a file with its split, or a folder's three, whose ids get the split's name because they repeat.

    Raises:
        DataError: a folder does not hold one file of each split.
    """
    if not path.is_dir():
        return [PopeFile(path, split_of(path) or "yes/no", "")]
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file in sorted([*path.glob("*.json"), *path.glob("*.jsonl")]):
        if (split := split_of(file)) is not None:
            found[split].append(file)
    for split, files in found.items():
        if not files:
            raise DataError(
                f"{path} holds no file of POPE's split {split} (such as coco_pope_{split}.json); complete the folder, "
                "or give one file"
            )
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise DataError(
                f"{path} holds {len(files)} files of POPE's split {split} ({names}); give each source of images a "
                "folder of its own"
            )
    return [PopeFile(files[0], split, f"{split}/") for split, files in found.items()]


def split_of(path: Path) -> str | None:
    """Return the split that one word of a file's name is, as in coco_pope_random.json; None: none, or several."""
    named = [split for split in SPLITS if split in _WORDS.split(path.stem.lower())]
    return named[0] if len(named) == 1 else None
