"""Writes a folder all at once: under a temporary name beside its place, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tove_core.errors import ConfigError


@contextmanager
def new_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `folder` when the block ends without error, else it is removed.

    Args:
        folder: where the result goes; its parents are made.
        overwrite: replace what is there; otherwise an existing, non-empty folder is an error.

    Raises:
        ConfigError: something is there already.
    """
    target = Path(folder).expanduser()
    if not overwrite and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{str(target)!r} exists already; give another folder or ask for overwriting")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays within one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        inside = work / "new"
        inside.mkdir()
        yield inside
        if target.exists():
            target.rename(work / "old")
        inside.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
