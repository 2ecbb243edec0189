"""Finds the trained weights that come with the package; importing it does not import torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tove_core.errors import WeightsError

ASSETS = Path(__file__).parent / "assets"
"""The folder of trained weights: `tokenizer/`, `clip/`, one safetensors file per expert, and the manifest."""

MANIFEST = "manifest.json"


def asset(name: str) -> Path:
    """Return the path of a shipped file or folder, such as "clip".

    Raises:
        WeightsError: it is not there.
    """
    path = ASSETS / name
    if not path.exists():
        raise WeightsError(
            f"the embedded world's '{name}' is not in this installation, which should ship it; "
            "reinstall tove-core or run `tove demo --rebuild-weights`"
        )
    return path


def manifest() -> dict[str, Any]:
    """Return, per shipped file (relative to `ASSETS`), its sha256, size in bytes and, for experts, its cost.

    Raises:
        WeightsError: there is no manifest.
    """
    return json.loads(asset(MANIFEST).read_text(encoding="utf-8"))["files"]


def sha256(file: Path) -> str:
    """Return the sha256 of `file` in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
