"""What an evaluation was: model, data, settings and versions; written beside its predictions, compared on resuming."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tove_core.errors import CheckpointError, ConfigError, DataError
from tove_core.folders import write_file

MANIFEST = "manifest.json"
_FORMAT = 1
_LIBRARIES = ("tove-core", "torch", "transformers", "open_clip_torch", "timm", "numpy")
_DECISIVE = ("format", "task", "model", "data", "generation")
"""What two parts of one evaluation must agree on; another version of a library is recorded and allowed."""


def describe(
    checkpoint: Path,
    task: str | None,
    data: Mapping[str, Any],
    references: str,
    samples: int,
    generation: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest of an evaluation.

    Args:
        checkpoint: folder whose tove.json holds configuration, provenance and the hashes of the weights.
        task: its name; None: nothing is scored.
        data: which data were read, as the configuration says it.
        references: `references.digest` of what is right.
        samples: how many there are.
        generation: options that decide what is said.

    Raises:
        CheckpointError: the folder is no checkpoint.
    """
    path = checkpoint / "tove.json"
    try:
        content = path.read_bytes()
        saved = json.loads(content)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is not a tove checkpoint (no readable tove.json); give a run") from error
    model = {"sha256": hashlib.sha256(content).hexdigest(), "config": saved.get("config"), "off": saved.get("off")}
    if saved.get("selection") is not None:  # else nothing, so that an evaluation begun by an older version goes on
        model["selection"] = saved["selection"]
    return {
        "format": _FORMAT,
        "task": task,
        "model": {**model, "provenance": saved.get("provenance")},
        "data": {**data, "sha256": references, "samples": samples},
        "generation": dict(generation),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a folder's manifest; None: it has none.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); evaluate into another folder") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no manifest of an evaluation; evaluate into another folder")
    return found


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_file(folder / MANIFEST, json.dumps(manifest, indent=2, default=str) + "\n")


def check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder that holds another evaluation.

    Raises:
        ConfigError: task, model, data or generation differ.
    """
    found = read_manifest(folder)
    if found is None:
        return
    there, here = _decisive(found), _decisive(json.loads(json.dumps(wanted, default=str)))
    other = [key for key in _DECISIVE if there[key] != here[key]]
    if other:
        raise ConfigError(
            f"{folder} holds the evaluation of another {' and '.join(other)}; give another --out, or remove it"
        )


def _decisive(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two parts must agree on; which samples there are, the sha256 says, and no `max_broken`."""
    found = {key: manifest.get(key) for key in _DECISIVE}
    if isinstance(data := found["data"], Mapping):
        found["data"] = {key: value for key, value in data.items() if key != "max_broken"}
    return found
