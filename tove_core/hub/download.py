"""Fetches files of hub repositories at a pinned commit and checks their hashes."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from tove_core import environment
from tove_core.errors import WeightsError
from tove_core.hub.digest import verify
from tove_core.hub.lock import Lock, UnwritableLockError
from tove_core.hub.reference import is_hub_id

SAFETENSORS = ".safetensors"
SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", SAFETENSORS})
"""What may be fetched: data that is never executed. Chat templates (.jinja) run in transformers' sandbox."""

PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")

_UNREACHABLE = (
    "{what} at {short} could not be fetched ({kind}); check the connection to the hub, or set "
    + environment.OFFLINE[0]
    + "=1 to use what is in the local cache"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BRANCH = re.compile(r"[A-Za-z0-9](?!.*\.\.)[\w./-]*")


def fetch(
    repo: str, file: str, revision: str | None = None, sha256: str | None = None, lock: Lock | None = None
) -> Path:
    """Return the local path of a weight file, downloaded if needed and verified on every call.

    Args:
        repo: hub id, `owner/name`.
        file: path of a `.safetensors` file in the repository.
        revision: commit, 40 hex digits. None: the one in the lock file, else the present `main`, which is then pinned.
        sha256: expected hash. None: the one in the lock file, else the hash found now. What was found is recorded.
        lock: the lock file; None: the user's.

    Raises:
        WeightsError: the file is no safetensors file, cannot be fetched, or has another hash.
    """
    if not file.endswith(SAFETENSORS):
        raise WeightsError(f"{repo} {file} is not a safetensors file; convert it once, offline, and publish that")
    return fetch_file(repo, file, revision, sha256, lock)


def fetch_file(
    repo: str, file: str, revision: str | None = None, sha256: str | None = None, lock: Lock | None = None
) -> Path:
    """Return the local path of a configuration, tokenizer or weight file; otherwise as `fetch`.

    Raises:
        WeightsError: the file's kind is not in `SUFFIXES`, it cannot be fetched, or has another hash.
    """
    if PurePosixPath(file).suffix not in SUFFIXES:
        raise WeightsError(f"{repo} {file} may not be fetched; only {', '.join(sorted(SUFFIXES))} files are")
    lock = lock or Lock()
    commit = _commit(repo, revision, lock)
    path = _download(repo, file, commit)
    known = lock.get(repo, file, commit)
    held_to = known if sha256 is None else None
    found = verify(
        path,
        held_to.sha256 if held_to else sha256,
        said_by=f"{lock.path}" if held_to else "its spec or checkpoint",
        # The blob must go: the client would link an existing one again without looking at it.
        advice=f"delete {path.resolve()} to fetch it again, or {_other_commit(repo, stated=sha256 is not None)}",
    )
    if revision is None and lock.record_pin(repo, commit) != commit:
        # Another process pinned the repository while this one was downloading: its commit holds.
        return fetch_file(repo, file, None, sha256, lock)
    if known is None:
        _record(lock, repo, file, commit, found, path.stat().st_size, needed=sha256 is None)
    return path


def _record(lock: Lock, repo: str, file: str, commit: str, found: str, size: int, *, needed: bool) -> None:
    """Record a file; where its hash is stated elsewhere, the record only serves later checks and may fail."""
    try:
        lock.record(repo, file, commit, found, size)
    except UnwritableLockError as error:
        if needed:
            raise
        told = f"{repo} {file} is as stated, but was not recorded for 'tove weights verify': {error}"
        warnings.warn(told, stacklevel=4)


def _other_commit(repo: str, stated: bool) -> str:
    """Say how another commit is taken: a hash that spec or checkpoint states does not change with the lock file."""
    if not stated:
        return f"if it is to change run 'tove weights update {repo}'"
    return f"name the commit of {repo} that has that file, as revision in the spec or in commits of the tove.json"


def pinned_revision(repo: str, lock: Lock | None = None) -> str:
    """Return the commit a repository is held to, pinning the present `main` on first use.

    For libraries that download by themselves: pass it as their `revision`.

    Raises:
        WeightsError: nothing is pinned and the hub cannot be asked.
    """
    lock = lock or Lock()
    return lock.pin(repo) or lock.record_pin(repo, _commit(repo, None, lock))


def commit_at(repo: str, revision: str | None = None, lock: Lock | None = None) -> str:
    """Return the commit that a commit, branch or tag means; None: `main`. What is pinned holds; nothing is written.

    Raises:
        WeightsError: it does not exist, or nothing is pinned and the hub cannot be asked.
    """
    lock = lock or Lock()
    if revision is None or _COMMIT.fullmatch(revision):
        return _commit(repo, revision, lock)
    if not is_hub_id(repo) or not _BRANCH.fullmatch(revision):
        raise WeightsError(f"{repo} has no revision {revision!r}; give a commit, a branch or a tag, or none")
    pin = pin_name(repo, revision)
    pinned = lock.pin(pin) if pin is not None else None
    if pinned is not None:
        return pinned
    return _cached_commit(repo, revision) if environment.offline() else _remote_commit(repo, revision)


def pin_name(repo: str, revision: str | None = None) -> str | None:
    """Return the name under which the lock file holds a repository, or a branch or tag of it; None: a commit itself."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return None
    return repo if revision is None else f"{repo}@{revision}"


def list_files(repo: str, commit: str, lock: Lock | None = None) -> list[str]:
    """Return the files of a repository at a commit; where downloads are switched off, those that are in the cache.

    Raises:
        WeightsError: the hub cannot be asked.
    """
    return _cached_files(repo, commit, lock or Lock()) if environment.offline() else _remote_files(repo, commit)


def on_disk(repo: str, file: str, revision: str | None = None, lock: Lock | None = None) -> Path | None:
    """Return where a file lies that would not have to be downloaded, or None. Asks nobody and verifies nothing.

    Without a revision and a pin the cached `main` counts, which the hub's may have left behind.
    """
    commit = revision or (lock or Lock()).pin(repo)
    if commit is None:
        main = _repo_cache(repo) / "refs" / "main"
        commit = main.read_text().strip() if main.is_file() else None
    path = _repo_cache(repo) / "snapshots" / str(commit) / file
    return path if path.is_file() else None


def snapshot(
    repo: str, patterns: Sequence[str] = PATTERNS, revision: str | None = None, lock: Lock | None = None
) -> Path:
    """Return a local folder with the files of a repository that match, each pinned and verified as by `fetch`.

    Args:
        repo: hub id, `owner/name`.
        patterns: file name patterns; one without a slash matches at the top of the repository only.
        revision: as in `fetch`.
        lock: the lock file; None: the user's.

    Raises:
        WeightsError: a file cannot be fetched or has another hash, nothing matches, or the weights are pickled only.
    """
    lock = lock or Lock()
    commit = _commit(repo, revision, lock)
    offered = list_files(repo, commit, lock)
    wanted = [file for file in offered if _matches(file, patterns) and PurePosixPath(file).suffix in SUFFIXES]
    pickled = sorted(file for file in offered if file.endswith(PICKLED))
    asks_weights = any(pattern.endswith(SAFETENSORS) for pattern in patterns)
    if asks_weights and pickled and not any(file.endswith(SAFETENSORS) for file in wanted):
        raise WeightsError(
            f"{repo} offers its weights as {pickled[0]} only; give a repository, or a folder, with safetensors"
        )
    if not wanted:
        raise WeightsError(f"{repo} has no file that matches {', '.join(patterns)} at {commit[:12]}; check the name")
    paths = [fetch_file(repo, file, commit, None, lock) for file in wanted]
    if revision is None and lock.record_pin(repo, commit) != commit:
        return snapshot(repo, patterns, None, lock)
    return paths[0].parents[wanted[0].count("/")]


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(file, pattern) and (file.count("/") == 0 or "/" in pattern) for pattern in patterns)


def _commit(repo: str, revision: str | None, lock: Lock) -> str:
    """Return the commit to use; nothing is written."""
    if not is_hub_id(repo):
        raise WeightsError(f"{repo!r} is not a hub id; write owner/name")
    if revision is not None:
        if not _COMMIT.fullmatch(revision):
            raise WeightsError(f"{repo} has revision {revision!r}; give the 40 hex digits of a commit, or none")
        return revision
    pinned = lock.pin(repo)
    if pinned is not None:
        return pinned
    return _cached_commit(repo) if environment.offline() else _remote_commit(repo)


def _remote_commit(repo: str, name: str = "main") -> str:
    from huggingface_hub import HfApi

    with _explained(repo, name):
        commit = HfApi(endpoint=endpoint()).model_info(repo, revision=name).sha
    if commit is None or not _COMMIT.fullmatch(commit):
        raise WeightsError(f"the hub named commit {commit!r} for {repo}, not 40 hex digits; check HF_ENDPOINT")
    return commit


def _remote_files(repo: str, commit: str) -> list[str]:
    from huggingface_hub import HfApi

    with _explained(repo, commit):
        return sorted(HfApi(endpoint=endpoint()).list_repo_files(repo, revision=commit))


def _download(repo: str, file: str, commit: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(f"{repo} {file}", commit):
        return Path(
            hf_hub_download(
                repo,
                file,
                revision=commit,
                cache_dir=_cache(),
                endpoint=endpoint(),
                local_files_only=environment.offline(),
            )
        )


@contextmanager
def _explained(what: str, revision: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into a sentence."""
    from huggingface_hub import errors

    short = revision[:12] if _COMMIT.fullmatch(revision) else revision
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if environment.offline():
            raise WeightsError(
                f"{what} at {short} is not in the local cache and downloads are switched off; unset "
                f"{' and '.join(environment.OFFLINE)}, or load it once while there is a connection"
            ) from error
        raise WeightsError(_UNREACHABLE.format(what=what, short=short, kind=type(error).__name__)) from error
    except errors.GatedRepoError as error:
        page = f"{endpoint() or 'https://huggingface.co'}/{what.split()[0]}"
        raise WeightsError(
            f"{what} is gated; accept its licence on the model's page {page}, then log in with 'hf auth login'"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(f"{what} does not exist or is private; check the name or run 'hf auth login'") from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{what} has no revision {short}; correct it, or leave it empty to pin 'main'") from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"{what} does not exist at {short}; check the file name") from error
    except Exception as error:  # the client's transport, and with it its error classes, changed between versions
        raise WeightsError(_UNREACHABLE.format(what=what, short=short, kind=type(error).__name__)) from error


def endpoint() -> str | None:
    """Return the hub's address where HF_ENDPOINT gives another than the client's own.

    Read at each call: the client itself reads the environment only when it is imported.
    """
    return os.environ.get("HF_ENDPOINT") or None


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)


def _repo_cache(repo: str) -> Path:
    """Follow the documented layout of the hub's cache: models--OWNER--NAME/{refs,snapshots}."""
    return _cache() / f"models--{repo.replace('/', '--')}"


def _cached_commit(repo: str, name: str = "main") -> str:
    reference = _repo_cache(repo) / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else ""
    if not _COMMIT.fullmatch(commit):
        what = repo if name == "main" else f"{repo} at {name}"
        raise WeightsError(
            f"{what} is not in the local cache and downloads are switched off; unset "
            f"{' and '.join(environment.OFFLINE)}, or load it once while there is a connection"
        )
    return commit


def _cached_files(repo: str, commit: str, lock: Lock) -> list[str]:
    """Return the files that are there, and those known to belong there, so that a missing one is an error."""
    folder = _repo_cache(repo) / "snapshots" / commit
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(present | {e.file for e in lock.entries() if (e.repo, e.revision) == (repo, commit)})
