"""The per-user lock file: which commit of each repository is used, and the hash of each file taken from it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock

from tove_core import environment
from tove_core.errors import WeightsError

FORMAT = 1

_NO_PINS: Mapping[str, str] = MappingProxyType({})
_held: ContextVar[Mapping[str, str]] = ContextVar("held pins", default=_NO_PINS)
"""Commits that come before those of any lock file and are never written, by repository."""
_pending: ContextVar[dict[tuple[Path, str], str] | None] = ContextVar("pending pins", default=None)
"""Pins that are written only once what they were for was accepted, by lock file and repository."""


@dataclass(frozen=True)
class Entry:
    """One file of one commit, as it was when it was first used."""

    repo: str
    revision: str
    """The commit, 40 hex digits."""
    file: str
    sha256: str
    size: int
    """Bytes."""
    date: str
    """When it was recorded, ISO 8601 in UTC."""


class UnwritableLockError(WeightsError):
    """The lock file cannot be written, as in a container whose home is read-only."""


class Lock:
    """The lock file: commits and hashes that were unknown at first and are held to from then on.

    Readers see either the old or the new file, never half of one; writers wait for each other. What is recorded already
    is not written again, so a file that holds all that is needed may be read-only.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Name the file; it is made by the first record. None: `weights.lock.json` in the user's tove folder."""
        self.path = path if path is not None else environment.home() / "weights.lock.json"

    def pin(self, repo: str) -> str | None:
        """Return the commit a repository is pinned to, or None."""
        if repo in _held.get():
            return _held.get()[repo]
        return self._read()["pins"].get(repo) or (_pending.get() or {}).get((self.path, repo))

    def pins(self) -> dict[str, str]:
        """Return the pinned commit of every repository."""
        return dict(sorted(self._read()["pins"].items()))

    def get(self, repo: str, file: str, revision: str | None = None) -> Entry | None:
        """Return what is known of a file at a commit (None: the pinned one), or None."""
        content = self._read()
        revision = revision or content["pins"].get(repo)
        return next((e for e in _entries(content) if (e.repo, e.file, e.revision) == (repo, file, revision)), None)

    def pins_without_files(self) -> dict[str, str]:
        """Return the pins of which no file is recorded, as of what a library downloaded by itself."""
        recorded = {(entry.repo, entry.revision) for entry in self.entries()}
        return {pin: commit for pin, commit in self.pins().items() if (pin.partition("@")[0], commit) not in recorded}

    def entries(self) -> tuple[Entry, ...]:
        """Return every recorded file, sorted by repository and name."""
        return tuple(sorted(_entries(self._read()), key=lambda e: (e.repo, e.file, e.revision)))

    def record_pin(self, repo: str, revision: str) -> str:
        """Pin a repository unless it is pinned already; return the commit that now holds."""
        if known := self.pin(repo):
            return known
        pending = _pending.get()
        if pending is not None:
            return pending.setdefault((self.path, repo), revision)
        with self._writing() as content:
            return content["pins"].setdefault(repo, revision)

    def record(self, repo: str, file: str, revision: str, sha256: str, size: int) -> Entry:
        """Record a file's hash at a commit.

        Raises:
            WeightsError: another hash is recorded for the same file and commit.
        """
        entry = Entry(repo, revision, file, sha256, size, datetime.now(UTC).isoformat(timespec="seconds"))
        if known := self._known(self._read(), entry):
            return known
        with self._writing() as content:
            if known := self._known(content, entry):  # another process may have been faster
                return known
            content["files"].append(asdict(entry))
        return entry

    def _known(self, content: dict[str, Any], wanted: Entry) -> Entry | None:
        key = (wanted.repo, wanted.file, wanted.revision)
        known = next((e for e in _entries(content) if (e.repo, e.file, e.revision) == key), None)
        if known is not None and known.sha256 != wanted.sha256:
            raise WeightsError(
                f"{wanted.repo} {wanted.file} has sha256 {wanted.sha256[:16]}..., {self.path} says "
                f"{known.sha256[:16]}...; if the change is wanted run 'tove weights update {wanted.repo}'"
            )
        return known

    def forget(self, repo: str) -> bool:
        """Remove a repository's pin and hashes, so that the next use pins it afresh; tell whether there were any."""
        with self._writing() as content:
            kept = [raw for raw in content["files"] if raw["repo"] != repo]
            known = content["pins"].pop(repo, None) is not None or len(kept) < len(content["files"])
            content["files"] = kept
        return known

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise WeightsError(
                    f"{self.path} has format {content['format']}, this version reads {FORMAT}; upgrade tove-core"
                )
            _ = content["pins"].items(), _entries(content)
        except (FileNotFoundError, NotADirectoryError):
            return {"format": FORMAT, "pins": {}, "files": []}
        except WeightsError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"{self.path} cannot be read as a lock file ({type(error).__name__}); delete it to pin weights afresh"
            ) from error
        return content

    @contextmanager
    def _writing(self) -> Iterator[dict[str, Any]]:
        """Give the content to change; write it back atomically if the block does not raise."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            guard = FileLock(self.path.with_name(self.path.name + ".guard"))
            guard.acquire()
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            content = self._read()
            yield content
            self._replace(content)
        finally:
            guard.release()

    def _replace(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(temporary).replace(self.path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UnwritableLockError:
        return UnwritableLockError(
            f"{self.path} cannot be written ({error.strerror}); set {environment.HOME} to a folder you own"
        )


@contextmanager
def pins_once_accepted(held: Mapping[str, str] = _NO_PINS) -> Iterator[None]:
    """Hold the pins of the block to the commits it asks for, but write them only if it does not raise.

    So a checkpoint that is refused leaves no repository pinned to the commit it was refused for.

    Args:
        held: commits by repository that hold in the block, whatever is pinned, and are not written.
    """
    pending: dict[tuple[Path, str], str] = {}
    tokens = _pending.set(pending), _held.set(held)
    try:
        yield
    finally:
        _pending.reset(tokens[0])
        _held.reset(tokens[1])
    for (path, repo), revision in pending.items():
        Lock(path).record_pin(repo, revision)


def _entries(content: dict[str, Any]) -> list[Entry]:
    return [Entry(**raw) for raw in content["files"]]
