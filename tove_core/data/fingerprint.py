"""Comparing two descriptions of what something was computed from, and naming what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tove_core.errors import DataError

_ABSENT = "absent"


def canonical(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint as JSON gives it back: tuples become lists, keys texts.

    Raises:
        DataError: a value is not JSON.
    """
    try:
        return json.loads(json.dumps(dict(fingerprint), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a fingerprint holds what is not JSON ({error}); use texts, numbers, lists and dicts"
        ) from error


def difference(there: Mapping[str, Any], here: Mapping[str, Any], limit: int = 3) -> str:
    """Say where two canonical fingerprints differ: "clip.layer is -2 there and -1 here"; "" where they are equal."""
    old, new = _flat(there), _flat(here)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key, _ABSENT) != new.get(key, _ABSENT))
    parts = [f"{key} is {old.get(key, _ABSENT)} there and {new.get(key, _ABSENT)} here" for key in keys[:limit]]
    if len(keys) > limit:
        parts.append(f"and {len(keys) - limit} more")
    return ", ".join(parts)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Return every leaf as JSON by its dotted path; lists are leaves, and so are empty dicts."""
    if not isinstance(value, Mapping) or not value:
        return {path: json.dumps(value, sort_keys=True)} if path else {}
    flat: dict[str, str] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{path}.{key}" if path else key)
    return flat
