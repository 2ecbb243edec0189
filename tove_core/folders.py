"""Writes a folder or a file all at once: under a temporary name beside its place, then renamed. No torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from tove_core.errors import CheckpointError, ConfigError, ToveError


def require_new(folder: str | Path, cure: str = "give another folder") -> None:
    """Refuse a folder that exists and holds something, before work is done whose result could not be written.

    Args:
        cure: what to do then.

    Raises:
        CheckpointError: something is there already.
    """
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{str(target)!r} exists already; {cure}")


def require_writable(folder: str | Path) -> None:
    """Refuse a folder that cannot be made or written to, before work is done whose result it should hold.

    Raises:
        CheckpointError: it, or the nearest folder above it that exists, cannot be written to.
    """
    target = Path(folder).expanduser().absolute()
    nearest = next(place for place in (target, *target.parents) if place.exists())
    if not nearest.is_dir():
        raise CheckpointError(f"{target} cannot be written: {nearest} is a file; give another folder as output")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be written ({error.strerror}); give another folder as output"
        ) from error


def holds_something(folder: Path) -> bool:
    """Return whether a folder is there and not empty; hidden files do not count."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def require_own_folder(folder: Path, marks: Sequence[str], what: str) -> None:
    """Refuse a folder that holds something of another kind, before files are put among it.

    Args:
        folder: for a result of many files, which may go on with an earlier one of its kind.
        marks: patterns of what lies in a folder of this kind; it is one where any matches.
        what: how such a folder is called.

    Raises:
        ConfigError: it is the folder of a run or of a checkpoint, or holds something and is none of this kind.
    """
    if any((folder / name).exists() for name in ("config.yaml", "tove.json")):
        raise ConfigError(f"{folder} is the folder of a run; give a folder of its own, such as {folder / what}")
    if holds_something(folder) and not any(any(folder.glob(mark)) for mark in marks):
        raise ConfigError(f"{folder} holds something else already; give a folder of its own, such as {folder / what}")


def require_place(file: Path | None, option: str, replaces: Callable[[Path], bool] | None = None) -> None:
    """Refuse a file that cannot be written, before the work is done whose result it should hold.

    Args:
        file: None: nothing is to be written.
        option: what names it.
        replaces: whether a file that is there is an earlier result of the same kind, which may go.

    Raises:
        ConfigError: it is a folder, there is no folder to put it into, or something else is there.
    """
    if file is None:
        return
    if file.is_dir():
        raise ConfigError(f"{option} {file} is a folder; give a file in it")
    if not file.parent.is_dir():
        raise ConfigError(f"{option} cannot be written to {file}: there is no folder {file.parent}; make it first")
    require_writable(file.parent)
    if not file.exists():
        return
    if not file.is_file():  # the rename would put a file in the place of a device
        raise ConfigError(f"{option} {file} is no plain file; give a file")
    if replaces is not None and file.stat().st_size and not replaces(file):
        raise ConfigError(f"{option} would write over {file}, which is not an earlier result; give another file")


@contextmanager
def new_folder(folder: str | Path, *, overwrite: bool | None = None) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `folder` when the block ends without error, else it is removed.

    Args:
        folder: where the result goes; its parents are made.
        overwrite: replace what is there once the new folder is complete; otherwise an existing one is an error, which
            names this option unless it is None, as where the caller of a function has none.

    Raises:
        CheckpointError: something is there already, or the folder cannot be written; what was there is still there.
    """
    target = Path(folder).expanduser()
    if not overwrite:
        require_new(target, "give another folder" if overwrite is None else "give another folder or overwrite=True")
    work = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the rename stays within one file system.
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".tmp", dir=target.parent))
        inside = work / "new"
        inside.mkdir()
        yield inside
        _swap(inside, target, work / "old")
    except (OSError, SafetensorError) as error:
        if isinstance(error, ToveError):
            raise
        raise CheckpointError(f"{target} cannot be written ({error}); make room or give another folder") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Write a file in UTF-8 so that it holds all of the new text or, whatever happens, what it held before.

    Raises:
        CheckpointError: it cannot be written.
    """
    work = path.with_name(f".{path.name}.tmp")
    try:
        with work.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the rename: a power cut must not leave a whole name on half a file
        work.replace(path)
    except OSError as error:
        # Whatever is in the way of removing what is half written, the first error is the one to tell.
        with suppress(OSError):
            work.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written ({error}); make room or give another folder") from error


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put `new` in the place of `target`; what was there comes back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
