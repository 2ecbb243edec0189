"""Finds and reads all weight files of an expert: one as a rule, several where networks of different origin meet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tove_core.errors import WeightsError
from tove_core.hub.digest import sha256
from tove_core.hub.lock import Lock
from tove_core.hub.weights import WeightsSource, locate, read_safetensors
from tove_core.spec import ExpertSpec

__all__ = ["at_commits", "commits_of", "digest_of", "locate_files", "read_files"]


def locate_files(
    spec: ExpertSpec,
    weights: WeightsSource = "pinned",
    *,
    expected_sha256: str | None = None,
    cure: str | None = None,
    lock: Lock | None = None,
) -> dict[str, Path]:
    """Return the verified weight files of an expert by their names in `Weights.files`; none where none are loaded.

    Args:
        spec: the expert, its variant applied.
        weights: see `tove_core.hub.weights.locate`. In a folder a further file is found as if it belonged to an
            expert named `<expert>-<file's name>`.
        expected_sha256: what `digest_of` gave when a checkpoint was made.
        cure: see `locate`.
        lock: the lock file; None: the user's.

    Raises:
        WeightsError: a file is not there, cannot be fetched, or has another hash or size.
        ConfigError: `weights` is none of the three forms.
    """
    if spec.weights is None or not spec.weights.more or weights == "random":
        path = locate(spec, weights, expected_sha256=expected_sha256, cure=cure, lock=lock)
        return {} if path is None else {"": path}
    found: dict[str, Path] = {}
    for key, part in spec.weights.files().items():
        name = f"{spec.name}-{key}" if key else spec.name
        path = locate(spec.model_copy(update={"name": name, "weights": part}), weights, lock=lock)
        if path is not None:
            found[key] = path
    seen = digest_of(found)
    if expected_sha256 is not None and seen != expected_sha256:
        raise WeightsError(
            f"the weights of expert '{spec.name}' have sha256 {str(seen)[:16]}... together; the checkpoint says "
            f"{expected_sha256[:16]}...; restore its files{f', or {cure}' if cure else ''}"
        )
    return found


def at_commits(spec: ExpertSpec, commits: Mapping[str, str]) -> ExpertSpec:
    """Return the spec with its weight files at given commits, by hub id, whatever it states itself.

    Args:
        spec: the expert, its variant applied.
        commits: as `commits_of` gave them when a checkpoint was made. What they do not name stays.
    """
    if spec.weights is None or not commits:
        return spec
    files = {
        key: part.model_copy(update={"revision": commits.get(part.repo or "", part.revision)})
        for key, part in spec.weights.files().items()
    }
    first = files.pop("")
    return spec.model_copy(update={"weights": first.model_copy(update={"more": files})})


def commits_of(spec: ExpertSpec, weights: WeightsSource = "pinned", lock: Lock | None = None) -> dict[str, str]:
    """Return the commit of every hub repository that files were taken from, by hub id; after `locate_files`.

    A repository from which a spec takes files of two commits is left out: the spec itself says which.
    """
    if spec.weights is None or weights != "pinned":
        return {}
    lock, found = lock or Lock(), {}
    for part in spec.weights.files().values():
        commit = part.revision or lock.pin(part.repo or "")
        if part.repo is not None and commit is not None:
            found.setdefault(part.repo, set()).add(commit)
    return {repo: commits.pop() for repo, commits in found.items() if len(commits) == 1}


def read_files(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Return the tensors of all files; those of further files as `name.tensor`.

    Raises:
        WeightsError: a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for key, path in files.items():
        tensors |= {f"{key}.{name}" if key else name: tensor for name, tensor in read_safetensors(path).items()}
    return tensors


def digest_of(files: Mapping[str, Path]) -> str | None:
    """Return the sha256 of the file, or of the files' hashes one after another; None where there is none."""
    hashes = [sha256(path) for path in files.values()]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
