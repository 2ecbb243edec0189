"""Finds the weight file of an expert and reads it: safetensors only, verified before it is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tove_core.errors import ConfigError, WeightsError
from tove_core.hub.digest import sha256, verify
from tove_core.hub.download import PICKLED, SAFETENSORS, fetch
from tove_core.hub.lock import Lock
from tove_core.hub.reference import here, package_path
from tove_core.spec import ExpertSpec, Weights

WeightsSource = Literal["pinned", "random"] | Path
"""pinned: as the spec says; random: none are loaded; a folder: the files in it, named as `locate` documents."""

__all__ = ["WeightsSource", "locate", "read_safetensors", "sha256", "verify"]


def locate(
    spec: ExpertSpec,
    weights: WeightsSource = "pinned",
    *,
    expected_sha256: str | None = None,
    cure: str | None = None,
    lock: Lock | None = None,
) -> Path | None:
    """Return the verified weight file of an expert, or None where nothing is to be loaded.

    Args:
        spec: the expert, its variant applied.
        weights: where to look. In a folder the file is `<sha256>.safetensors`, `<name>.safetensors` or the name the
            spec gives, the first that exists.
        expected_sha256: the hash a checkpoint was made with; it takes the place of the spec's and the lock file's.
        cure: how the plugin of the checkpoint is had, for the message where the one that is here ships other weights.
        lock: the lock file; None: the user's.

    Raises:
        WeightsError: the file is not there, cannot be fetched, or has another hash or size.
        ConfigError: `weights` is none of the three forms.
    """
    if not isinstance(weights, Path) and weights not in ("pinned", "random"):
        raise ConfigError(f"weights {weights!r} is not known; give 'pinned', 'random', or the Path of a folder")
    declared = spec.weights
    if expected_sha256 is not None and (declared is None or weights == "random"):
        reason = "it is to be built with random ones" if weights == "random" else "it declares none"
        raise WeightsError(
            f"expert '{spec.name}' was saved with weights {expected_sha256[:16]}... but {reason}; "
            f"{cure or 'use the plugin version and the weights of the checkpoint'}"
        )
    if declared is None or weights == "random":
        return None
    expected = expected_sha256 or declared.sha256
    if isinstance(weights, Path):
        path, advice = _in_folder(spec, declared, weights, expected), _another_file(spec, expected)
    elif declared.repo is not None:
        return _sized(fetch(declared.repo, declared.file, declared.revision, expected, lock), declared, expected)
    elif declared.folder is not None:
        path, advice = _in_folder(spec, declared, Path(declared.folder), expected), _another_file(spec, expected)
    else:
        path, advice = _in_package(spec, declared), f"install package '{declared.package}' again"
        if expected_sha256 is not None:
            told = f"the plugin of expert '{spec.name}' ships other weights than it did"
            advice = f"{told}, {cure or 'install the version that the checkpoint was made with'}"
    said_by = "the checkpoint" if expected_sha256 else f"the spec of expert '{spec.name}'"
    verify(path, expected, said_by=said_by, advice=advice)
    return _sized(path, declared, expected)


def _in_folder(spec: ExpertSpec, declared: Weights, folder: Path, expected: str | None) -> Path:
    names = [f"{spec.name}{SAFETENSORS}", declared.file]
    if expected is not None:
        names.insert(0, f"{expected}{SAFETENSORS}")
    place, folder = here(folder), folder.expanduser()
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise WeightsError(
            f"there are no weights for expert '{spec.name}', since there is no folder {folder}{place}; give its path"
        )
    raise WeightsError(f"{folder} has no weights for expert '{spec.name}'; put one of {', '.join(names)} there")


def _another_file(spec: ExpertSpec, expected: str | None) -> str:
    return f"put the file of that hash there for expert '{spec.name}', as {expected}{SAFETENSORS}"


def _in_package(spec: ExpertSpec, declared: Weights) -> Path:
    try:
        path = package_path(declared.package or "", declared.file)
    except ConfigError as error:
        raise WeightsError(f"weights of expert '{spec.name}': {error}") from error
    if not path.is_file():
        raise WeightsError(
            f"package '{declared.package}' has no file {declared.file} for expert '{spec.name}'; install it again"
        )
    return path


def _sized(path: Path, declared: Weights, expected: str | None) -> Path:
    """Compare the size only where no hash was stated that says more."""
    size = path.stat().st_size
    if expected is None and declared.size is not None and size != declared.size:
        raise WeightsError(f"{path} has {size} bytes, the spec says {declared.size}; delete it to fetch it again")
    return path


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU, as they were stored.

    Raises:
        WeightsError: the file is missing, pickled, a pointer of Git LFS, truncated or damaged.
    """
    if path.suffix in PICKLED:
        raise WeightsError(f"{path} is a pickle, which can run code; convert it once with safetensors' save_file")
    if path.suffix != SAFETENSORS:
        raise WeightsError(f"{path} does not end in {SAFETENSORS}; give a safetensors file")
    try:
        _check_layout(path)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} cannot be read ({error}); fetch or convert it again") from error


def _check_layout(path: Path) -> None:
    """Find the common faults, for which the parser's own messages say little: length, JSON header, data."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start, brace = stream.read(8), stream.read(1)
        # A header's length may begin with a pickle's first byte (one length in 32 does); what follows it tells.
        if start.startswith((b"PK\x03\x04", b"\x80")) and brace != b"{":
            raise WeightsError(f"{path} is a pickle under another name; convert it once with safetensors' save_file")
        if start == b"version ":
            raise WeightsError(f"{path} is a Git LFS pointer, not the file itself; run 'git lfs pull' where it lies")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or 8 + length > size:
            raise WeightsError(f"{path} has {size} bytes, too few for its header; it is truncated, fetch it again")
        try:
            stream.seek(8)
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise WeightsError(f"{path} has no readable header; it is not a safetensors file or is damaged") from error
    promised = 8 + length + max(ends, default=0)
    if size != promised:
        raise WeightsError(f"{path} has {size} bytes, its header promises {promised}; it is damaged, fetch it again")
