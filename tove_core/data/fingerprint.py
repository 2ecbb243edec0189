"""Comparing two descriptions of what something was computed from, and naming what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tove_core.errors import DataError

TOLERANCE = 1e-3
"""In standard deviations: above what another device or batch size changes, and as fine as float16 keeps."""

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


@dataclass(frozen=True)
class FeatureFingerprint:
    """What one feature, CLIP's tokens or an expert's u_k, was computed from.

    Attributes:
        name: "clip", or the key under which a model knows the expert. No part of the comparison.
        shape: N tokens, C channels.
        decides: everything whose change makes the feature another one; JSON.
        statistics: per output that is normalised by fixed statistics, its `mean` and `std` over channels. They are
            measured, so they are compared up to `TOLERANCE` standard deviations.
        versions: of libraries; another version is told and refused by nobody.
    """

    name: str
    shape: tuple[int, int]
    decides: Mapping[str, Any]
    statistics: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as `from_json` takes it.

        Raises:
            DataError: a value is not JSON.
        """
        return canonical(vars(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FeatureFingerprint:
        """Return what `as_json` gave; `KeyError`, `TypeError` or `ValueError` where it did not."""
        tokens, channels = value["shape"]
        return cls(
            value["name"],
            (int(tokens), int(channels)),
            dict(value["decides"]),
            dict(value["statistics"]),
            dict(value["versions"]),
        )

    def difference(self, here: FeatureFingerprint) -> str:
        """Say where this one, "there", and another, "here", differ in what decides; "" where they are the same."""
        there_facts = canonical({**self.decides, "tokens": self.shape[0], "channels": self.shape[1]})
        here_facts = canonical({**here.decides, "tokens": here.shape[0], "channels": here.shape[1]})
        return difference(there_facts, here_facts) or self._other_statistics(here)

    def _other_statistics(self, here: FeatureFingerprint) -> str:
        if self.statistics.keys() != here.statistics.keys():
            return f"fixed statistics are of {sorted(self.statistics)} there and of {sorted(here.statistics)} here"
        for output, mine in self.statistics.items():
            theirs = here.statistics[output]
            columns = zip(mine["mean"], theirs["mean"], mine["std"], theirs["std"], strict=True)
            shift = max((max(abs(a - b), abs(s - t)) / max(s, t) for a, b, s, t in columns), default=0.0)
            if not shift <= TOLERANCE:
                return (
                    f"fixed statistics of output {output!r} are {shift:.2g} standard deviations apart, as when a model "
                    "is calibrated on other images"
                )
        return ""

    def other_versions(self, here: FeatureFingerprint) -> str:
        """Say which libraries' versions differ; "" where none does."""
        return difference(canonical(self.versions), canonical(here.versions))

    def digest(self) -> str:
        """Return a sha256 (hex) that tells features apart, for names of folders."""
        known = {"shape": self.shape, "decides": self.decides, "statistics": self.statistics}
        return hashlib.sha256(json.dumps(canonical(known), sort_keys=True).encode()).hexdigest()
