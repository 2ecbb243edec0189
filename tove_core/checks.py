"""Plain values that callers give to public functions, checked where they come in. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from tove_core.config import LARGEST_SEED
from tove_core.errors import ConfigError


def path_given(place: Any, what: str) -> Path:
    """Return a path that was given as text or as a path.

    Args:
        what: it is called in the error.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(place, (str, os.PathLike)):
        raise ConfigError(f"{what} is {place!r:.60}; give a path")
    return Path(place)


def names_given(names: Any, what: str) -> list[str]:
    """Return names that were given as a list of texts; one text alone would be read letter by letter.

    Args:
        what: the argument, as the error calls it.

    Raises:
        ConfigError: they are no list, or one of them is no text.
    """
    listed = list(names) if isinstance(names, Iterable) and not isinstance(names, (str, bytes, Mapping)) else None
    if listed is None or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{what} is {names!r:.60}; give a list of names")
    return listed


def whole(value: Any, name: str, *, least: int, most: int | None = None) -> int:
    """Return a whole number between two bounds, both included.

    Raises:
        ConfigError: it is none.
    """
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or int(value) < least or (most is not None and int(value) > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} is {value!r:.60}; give a whole number, {bound}")
    return int(value)


def seed_given(seed: Any) -> int:
    """Return a seed, as `RunConfig.seed` takes it.

    Raises:
        ConfigError: it is no whole number, or below 0 or above what torch and numpy both take.
    """
    return whole(seed, "seed", least=0, most=LARGEST_SEED)
