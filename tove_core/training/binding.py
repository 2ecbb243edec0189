"""Whether features belong to the model they are used with: what both are computed from, compared one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tove_core.data.cache.table import CachedFeatures
from tove_core.data.features import Features, FeatureTable
from tove_core.data.fingerprint import FeatureFingerprint, canonical
from tove_core.errors import DataError
from tove_core.model import ToveModel
from tove_core.training.cached import HASHED, feature_fingerprints

Described = Mapping[str, FeatureFingerprint]
"""What each feature was computed from, by its name in the model."""

_FEATURES = "features"


def table_fingerprint(model: ToveModel) -> dict[str, object]:
    """Return what a `FeatureTable` of a model keeps, for `described` to find again."""
    return {_FEATURES: {name: one.as_json() for name, one in features_of(model, hashed=True).items()}}


def described(table: Features) -> Described | None:
    """Return what the features of a table were computed from; None where it does not say."""
    if isinstance(table, CachedFeatures):
        return {name: store.fingerprint for name, (store, _) in table.features.items()}
    if isinstance(table, FeatureTable) and _FEATURES in table.fingerprint:
        kept = table.fingerprint[_FEATURES]
        return {name: FeatureFingerprint.from_json(one) for name, one in kept.items()}
    return None


def features_of(model: ToveModel, *, hashed: bool) -> Described:
    """Return what a model's features are computed from now; `hashed` as for `feature_fingerprints`."""
    found = feature_fingerprints(model, hashed=hashed)
    return {one.name: _plain(replace(one, versions={})) for one in found}  # which decide nothing


def _plain(one: FeatureFingerprint) -> FeatureFingerprint:
    """Return it as JSON can say it: options of a registered expert, which no cache on disk takes, may be anything."""
    try:
        canonical(one.decides)
    except DataError:
        return replace(one, decides={**one.decides, "options": repr(one.decides.get("options"))})
    return one


def require_same(held: Described, model: ToveModel, *, hashed: bool) -> None:
    """Refuse features that are not those a model gives as it is now; experts that are off may be among them.

    Args:
        hashed: compare the weights too, which takes reading all of them.

    Raises:
        DataError: a feature is missing, or was computed from something else, which is named.
    """
    for name, here in features_of(model, hashed=hashed).items():
        there = held.get(name)
        if there is None:
            raise DataError(f"the examples hold no features of {name!r}, which is on; bind the samples anew")
        if not hashed:
            there = replace(there, decides={key: one for key, one in there.decides.items() if key not in HASHED})
        if differs := there.difference(here):
            raise DataError(
                f"the examples hold features of {name!r} that are not this model's: {differs}; bind the samples to the "
                "model they are used with, after it is calibrated"
            )
