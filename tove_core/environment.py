"""What tove reads from the environment, in one place. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PLUGINS = "TOVE_PLUGINS"
BLOCK = "TOVE_BLOCK"
STRICT = "TOVE_STRICT"
OFFLINE = ("TOVE_OFFLINE", "HF_HUB_OFFLINE")
HOME = "TOVE_HOME"
DATA_CACHE = "TOVE_DATA_CACHE"
TRACEBACK = "TOVE_TRACEBACK"
KERNELS = "TOVE_KERNELS"  # read by tove_kernels.choice, which knows nothing of this package

_TRUE = frozenset({"1", "true", "yes", "on"})


def is_true(value: str | None) -> bool:
    """Tell whether an environment value switches something on (1, true, yes, on)."""
    return (value or "").strip().lower() in _TRUE


def offline(env: Mapping[str, str] = os.environ) -> bool:
    """Tell whether network access is forbidden (TOVE_OFFLINE or HF_HUB_OFFLINE)."""
    return any(is_true(env.get(name)) for name in OFFLINE)


def home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the per-user folder for the lock file: TOVE_HOME, else XDG_CACHE_HOME/tove, else ~/.cache/tove."""
    if env.get(HOME):
        return Path(env[HOME]).expanduser()
    cache = env.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "tove"


def rank(env: Mapping[str, str] = os.environ) -> int:
    """Return this process's number among those that train together, as torchrun sets it; 0 where it is alone."""
    return int(env.get("RANK") or 0)


def variable(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """Return an environment variable, None where it is not set."""
    return env.get(name)
