"""Where a checkpoint lies: in a folder, or in a repository of the hub, then fetched at a pinned commit. No torch."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from tove_core.checks import path_given
from tove_core.errors import CheckpointError, ConfigError, WeightsError
from tove_core.hub.download import commit_at, fetch_file, list_files, on_disk, pin_name
from tove_core.hub.lock import Lock
from tove_core.hub.reference import is_hub_id

MANIFEST = "tove.json"
CHECKPOINT = "checkpoint"
"""The folder inside a run, or a merged model's folder or repository, that holds its checkpoint."""
TENSORS = "model.safetensors"
FROZEN = "frozen"


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint folder that a run folder, a merged model's folder or a checkpoint folder means.

    Raises:
        ConfigError: it is no path.
    """
    path = path_given(path, "the checkpoint")
    return path / CHECKPOINT if (path / CHECKPOINT / MANIFEST).is_file() else path


def is_remote(place: str | Path) -> bool:
    """Tell whether a text means a repository of the hub: it reads `owner/name`, and nothing of that name lies here.

    So does `owner/name@revision`. A `Path` never does, nor does text that only a path can be: `./x/y`, `a/b/c`, `~/x`,
    or an absolute one.
    """
    if not isinstance(place, str) or Path(place).exists():
        return False
    repo = place.partition("@")[0]
    return is_hub_id(repo) and not Path(repo).exists()


def open_checkpoint(place: str | Path, revision: str | None = None, lock: Lock | None = None) -> Path:
    """Return the folder that is meant, fetched first where it is a repository of the hub.

    Of a repository `tove.json` is fetched, and of the rest what its `files` names and no more, each verified. A local
    folder is returned as it is, whatever it holds.

    Args:
        place: a folder, or a hub id `owner/name`. What lies here by that name comes before the hub, which is not asked.
            `owner/name@revision` names the revision too.
        revision: a commit, a branch or a tag of the repository. None: the commit in the lock file, else the present
            `main`. What is no commit is pinned at its first use.
        lock: the lock file; None: the user's.

    Raises:
        CheckpointError: there is neither such a folder nor such a checkpoint on the hub; both are named.
        ConfigError: a revision is given with a folder, or twice, or is empty.
        WeightsError: a file the manifest names cannot be fetched, is not data, or has another hash.
    """
    if is_remote(place):
        repo, at, named = str(place).partition("@")
        if at and (not named or revision is not None):
            wrong = f"revision {revision!r} is given beside it" if named else "nothing follows the @"
            raise ConfigError(f"{str(place)!r} names a revision, but {wrong}; write one revision, owner/name@revision")
        return _fetched(repo, named or revision, lock or Lock())
    if revision is not None:
        raise ConfigError(f"revision {revision!r} is one of a hub repository, and {place} is a folder; leave it out")
    return path_given(place, "the checkpoint")


def _fetched(repo: str, revision: str | None, lock: Lock) -> Path:
    try:
        commit = commit_at(repo, revision, lock)
        name = _manifest(repo, commit, lock)
        manifest = fetch_file(repo, name, commit, None, lock)
    except WeightsError as error:
        raise CheckpointError(f"there is no folder {repo!r}, and no such checkpoint on the hub: {error}") from error
    inside = PurePosixPath(name).parent
    for file, digest in _named(manifest, repo).items():
        fetch_file(repo, str(inside / file), commit, digest, lock)
    pin = pin_name(repo, revision)
    # Pinned once all is there and as it should be; where another process was faster, its commit holds.
    if pin is not None and lock.record_pin(pin, commit) != commit:
        return _fetched(repo, revision, lock)
    return manifest.parents[name.count("/")]


def _manifest(repo: str, commit: str, lock: Lock) -> str:
    """Return the path of a repository's manifest, found as in a folder; asks nobody where it is in the cache."""
    names = (f"{CHECKPOINT}/{MANIFEST}", MANIFEST)
    cached = next((name for name in names if on_disk(repo, name, commit, lock)), None)
    if cached is not None:
        return cached
    offered = list_files(repo, commit, lock)
    found = next((name for name in names if name in offered), None)
    if found is None:
        raise WeightsError(f"{repo} at {commit[:12]} has no {MANIFEST}; give a repository that tove pushed to")
    return found


def _named(manifest: Path, repo: str) -> dict[str, str]:
    """Return the files a manifest names, with their hashes; none where it is none, which whoever reads it will say.

    Raises:
        CheckpointError: a name leads out of the checkpoint.
    """
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        return {}
    for name in files:
        # Whoever wrote it is not known here: no name may reach anything but what lies beside it.
        if not name or name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise CheckpointError(f"{repo} names {name!r} in its {MANIFEST}, which is no path inside it; do not use it")
    return files
