"""Collects packed features until they are worth a shard."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tove_core.data.cache.codec import pack
from tove_core.data.cache.places import Places
from tove_core.data.cache.store import FeatureStore
from tove_core.errors import DataError

SHARD_BYTES = 512 << 20
"""Over all features: a million images of a few experts then are some thousands of files."""
SHARD_SECONDS = 300.0
"""What a killed build loses at most, where images are slow."""


class Writer:
    """Writes features into their stores, a shard of each at a time.

    Args:
        stores: by feature.
        places: gets the digests of images, written after their features.
        shard_bytes, shard_seconds: a shard is written when either is reached.
    """

    def __init__(
        self,
        stores: Mapping[str, FeatureStore],
        places: Places,
        *,
        shard_bytes: int = SHARD_BYTES,
        shard_seconds: float = SHARD_SECONDS,
    ) -> None:
        self.stores, self.places = stores, places
        self.shard_bytes, self.shard_seconds = shard_bytes, shard_seconds
        self._waiting: dict[str, list[tuple[list[bytes], dict[str, Tensor]]]] = {}
        self._bytes, self._since = 0, time.monotonic()

    def add(self, digests: Sequence[bytes], features: Mapping[str, Tensor], images: Sequence[str]) -> None:
        """Take the features [B, N, C] of B images, whose names are for errors.

        Raises:
            DataError: a feature has another shape than promised, is not finite or too large, or cannot be written.
        """
        for name, feature in features.items():
            store = self.stores[name]
            wanted = [len(digests), *store.fingerprint.shape]
            if list(feature.shape) != wanted:
                raise DataError(f"feature {name!r} is {list(feature.shape)}, but {wanted} was promised for it")
            packed = pack(feature, store.dtype, name, images)
            self._waiting.setdefault(name, []).append((list(digests), packed))
            self._bytes += store.row_bytes() * len(digests)
        if self._bytes >= self.shard_bytes or time.monotonic() - self._since >= self.shard_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            DataError: it cannot be written.
        """
        for name in list(self._waiting):
            parts = self._waiting[name]
            digests = [digest for part, _ in parts for digest in part]
            together = {key: torch.cat([packed[key] for _, packed in parts]) for key in parts[0][1]}
            self.stores[name].append(digests, together)
            del self._waiting[name]
        self.places.save()
        self._bytes, self._since = 0, time.monotonic()
