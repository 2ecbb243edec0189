"""Writes a folder all at once: under a temporary name beside its place, then renamed. No torch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tove_core.errors import ConfigError


def require_new(folder: str | Path) -> None:
    """Refuse a folder that exists and holds something, before work is done whose result could not be written.

    Raises:
        ConfigError: something is there already.
    """
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{str(target)!r} exists already; give another folder or ask for overwriting")


@contextmanager
def new_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `folder` when the block ends without error, else it is removed.

    Args:
        folder: where the result goes; its parents are made.
        overwrite: replace what is there once the new folder is complete; otherwise an existing one is an error.

    Raises:
        ConfigError: something is there already.
    """
    target = Path(folder).expanduser()
    if not overwrite:
        require_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays within one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".tmp", dir=target.parent))
    try:
        inside = work / "new"
        inside.mkdir()
        yield inside
        _swap(inside, target, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put `new` in the place of `target`; what was there comes back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
