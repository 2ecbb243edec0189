"""Features of a data set's images, read from a cache as they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tove_core.data.cache.folder import SOURCE, FeatureCache
from tove_core.data.cache.places import Places
from tove_core.data.cache.store import FeatureStore
from tove_core.data.features import checked_rows
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.data.sample import ImageRef, image_name


class CachedFeatures:
    """Features of M images in a cache, [M, N, C] each; what `FeatureTable` is for features on disk.

    A batch's rows are copied out of the mapped files, and nothing else is; the operating system keeps in memory what
    there is room for.

    Args:
        features: by name, the store and the row of each image, int64 [M].
    """

    def __init__(self, features: Mapping[str, tuple[FeatureStore, np.ndarray]]) -> None:
        self.features = dict(features)

    def __len__(self) -> int:
        """Return M, the number of images."""
        return len(next(iter(self.features.values()))[1])

    @property
    def nbytes(self) -> int:
        """Bytes on disk that belong to these images."""
        return sum(store.row_bytes() * len(rows) for store, rows in self.features.values())

    def gather(
        self,
        indices: Sequence[int] | Tensor,
        device: torch.device | str | None = None,
        names: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return the features of some images, [len(indices), N, C] float32; in main memory if no device is named.

        Args:
            indices: of the images.
            device: where to.
            names: the features to read; None: all.

        Raises:
            DataError: an index is not 0 to M - 1, or a file of the cache has been changed.
        """
        wanted = checked_rows(indices, len(self)).numpy()
        asked = {name: kept for name, kept in self.features.items() if names is None or name in names}
        return {name: store.gather(rows[wanted], device or "cpu") for name, (store, rows) in asked.items()}

    def require_sound(self, indices: Sequence[int]) -> None:
        """Hold what is kept of some images to its checksums, where it was not before.

        Raises:
            DataError: as of `gather`.
        """
        wanted = checked_rows(indices, len(self)).numpy()
        for store, rows in self.features.values():
            store.require_sound(rows[wanted])


def open_features(
    folder: Path, fingerprints: Sequence[FeatureFingerprint], images: Sequence[ImageRef], source: str = SOURCE
) -> CachedFeatures:
    """Return the features of some images from a cache.

    Args:
        folder: of the cache.
        fingerprints: what each feature of a model is computed from.
        images: the distinct images.
        source: what would compute them; see `FeatureCache`.

    Raises:
        DataError: there is no cache; or a feature is missing, damaged or computed from something else, which is named.
        LackingImages: a feature lacks images; no cache holds those that cannot be read.
    """
    cache = FeatureCache.existing(folder, source)
    digests, faults = Places(folder).digests(images)
    return CachedFeatures(cache.select(fingerprints, digests, _Names(images, faults)))


class _Names(Sequence[str]):
    """Names of images, made when asked for: there may be millions. For one that cannot be read, what is said of it."""

    def __init__(self, images: Sequence[ImageRef], faults: Mapping[int, str]) -> None:
        self._images, self._faults = images, faults

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # never sliced
        return self._faults.get(row) or image_name(self._images[row])
