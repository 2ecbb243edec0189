"""A cache: a folder of features, each of which knows what it was computed from."""

from __future__ import annotations

import os
import re
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
from filelock import FileLock

from tove_core.data.cache.codec import EXACTNESS, CacheDtype
from tove_core.data.cache.places import FOLDER as IMAGES
from tove_core.data.cache.shards import UNFINISHED
from tove_core.data.cache.store import DESCRIPTION, DamagedDescription, FeatureStore
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.errors import DataError
from tove_core.folders import holds_something

_LOCK = ".lock"
MARKS = (_LOCK, f"*/{DESCRIPTION}", IMAGES)
"""What lies in the folder of a cache."""
SOURCE = "CONFIG"
"""What `tove cache build` is given where nobody knows better: the file of the run that the features are for."""


class LackingImages(DataError):
    """A cache lacks a feature of some images.

    Attributes:
        rows: which of those that were asked for.
    """

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = rows


class FeatureCache:
    """The features under a folder.

    Features are found by what they were computed from and not by name, so that one cache serves several models, and an
    expert that joins is computed alone.

    Args:
        folder: need not exist before something is created in it.
        source: what `tove cache build` is given to compute what is asked for: a file or a run, with its options. Errors
            name it.
    """

    def __init__(self, folder: Path, source: str = SOURCE) -> None:
        self.folder = folder
        self.source = source

    @classmethod
    def existing(cls, folder: Path, source: str = SOURCE) -> FeatureCache:
        """Return the cache in a folder; whether its features are sound is not looked at.

        Raises:
            DataError: there is none.
        """
        found = cls(folder, source)
        if not found.places():
            # The command would put its files among those of others.
            other = folder.exists() and (not folder.is_dir() or holds_something(folder))
            cure = "it holds something else, so give the folder of a cache" if other else found._cure()
            raise DataError(f"{folder} holds no feature cache; {cure}")
        return found

    def _cure(self) -> str:
        return f"run 'tove cache build {self.source} --out {quote(str(self.folder))}'"

    def stores(self) -> list[FeatureStore]:
        """Return every feature, by name and from the most exact.

        Raises:
            DataError: a feature's description is damaged.
        """
        return sorted(map(FeatureStore.open, self.places()), key=_by_name)

    def survey(self) -> tuple[list[FeatureStore], list[Path]]:
        """Return the features as `stores` does, and the folders of those whose description is damaged.

        Raises:
            DataError: a description cannot be read.
        """
        found, damaged = [], []
        for place in self.places():
            try:
                found.append(FeatureStore.open(place))
            except DamagedDescription:
                damaged.append(place)
        return sorted(found, key=_by_name), damaged

    def places(self) -> list[Path]:
        """Return the folders of features in a fixed order, without reading what they say of themselves."""
        if not self.folder.is_dir():
            return []
        return sorted(path.parent for path in self.folder.glob(f"*/{DESCRIPTION}") if path.parent.name != IMAGES)

    def matching(self, wanted: FeatureFingerprint) -> list[FeatureStore]:
        """Return the features computed from what `wanted` says, from the most exact."""
        found = [store for store in self.stores() if not store.fingerprint.difference(wanted)]
        return sorted(found, key=lambda store: EXACTNESS.index(store.dtype))

    def find(self, wanted: FeatureFingerprint, dtype: CacheDtype) -> FeatureStore | None:
        """Return a feature that is kept in one precision; None: there is none."""
        return next((store for store in self.matching(wanted) if store.dtype == dtype), None)

    def planned(self, wanted: FeatureFingerprint, dtype: CacheDtype) -> FeatureStore:
        """Return what `find_or_create` would, and write nothing: a feature that is not there is empty."""
        found = self.find(wanted, dtype)
        return found if found is not None else FeatureStore(self._place(wanted, dtype), wanted, dtype)

    def find_or_create(self, wanted: FeatureFingerprint, dtype: CacheDtype) -> FeatureStore:
        """Return the place of a feature; of processes that ask at once, one makes it and all get it.

        Raises:
            DataError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / _LOCK):
                found = self.find(wanted, dtype)
                if found is not None:
                    return found
                return FeatureStore.create(self._place(wanted, dtype), wanted, dtype)
        except OSError as error:
            raise DataError(
                f"{self.folder} cannot be written ({(error.strerror or str(error)).lower()}); choose another --out"
            ) from error

    def _place(self, wanted: FeatureFingerprint, dtype: CacheDtype) -> Path:
        plain = re.sub(r"[^A-Za-z0-9-]+", "-", wanted.name)
        return self.folder / f"{plain}-{wanted.digest()[:12]}-{dtype}"

    def select(
        self, wanted: Sequence[FeatureFingerprint], digests: np.ndarray, names: Sequence[str]
    ) -> Mapping[str, tuple[FeatureStore, np.ndarray]]:
        """Return for each feature the most exact store that holds all images, and their rows, int64 [M].

        Args:
            wanted: the features of a model.
            digests: of the images, uint8 [M, 32].
            names: of the images, for the error.

        Raises:
            DataError: a feature is missing or computed from something else (the difference is named).
            LackingImages: a feature lacks images.
        """
        found, changed = {}, {}
        # Features computed together hold the same images in the same order: what was looked up once holds for all.
        known: list[tuple[np.ndarray, np.ndarray]] = []
        for fingerprint in wanted:
            stores = self.matching(fingerprint)
            if not stores:
                raise self._refusal(fingerprint)
            found[fingerprint.name] = self._covering(stores, digests, names, known)
            if versions := found[fingerprint.name][0].fingerprint.other_versions(fingerprint):
                changed.setdefault(versions, []).append(fingerprint.name)
        for versions, features in changed.items():
            warnings.warn(f"{', '.join(features)} in {self.folder} were computed elsewhere: {versions}", stacklevel=4)
        return found

    def _covering(
        self,
        stores: Sequence[FeatureStore],
        digests: np.ndarray,
        names: Sequence[str],
        known: list[tuple[np.ndarray, np.ndarray]],
    ) -> tuple[FeatureStore, np.ndarray]:
        missing = np.empty(0, np.int64)
        for store in stores:
            rows = next((rows for keys, rows in known if np.array_equal(keys, store.keys)), None)
            if rows is None:
                rows = store.index.rows(digests)
                known.append((store.keys, rows))
            store.release()
            missing = np.flatnonzero(rows < 0)
            if not len(missing):
                return store, rows
        raise LackingImages(
            f"feature {stores[-1].name!r} of {len(missing):,} of {len(digests):,} images is not in {self.folder} "
            f"(first: {names[missing[0]]}); {self._cure()}",
            missing.tolist(),
        )

    def _refusal(self, wanted: FeatureFingerprint) -> DataError:
        near = [store.fingerprint.difference(wanted) for store in self.stores() if store.name == wanted.name]
        if not near:
            return DataError(
                f"feature {wanted.name!r} is not in {self.folder}; {self._cure()}, which computes what is missing alone"
            )
        closest = min(near, key=len)
        return DataError(
            f"{self.folder} holds feature {wanted.name!r} computed from something else: {closest}; "
            f"{self._cure()}, which computes it anew beside the other"
        )

    def leftovers(self) -> list[Path]:
        """Return files that writers left unfinished when they were killed; those of living ones are not among them.

        A writer on another host counts as living while its file is younger than a day.
        """
        return [path for path in self.folder.glob(f"*/.*{UNFINISHED}") if not _is_written(path)]


def _by_name(store: FeatureStore) -> tuple[str, int, str]:
    return store.name, EXACTNESS.index(store.dtype), store.folder.name


def _is_written(path: Path) -> bool:
    """Tell whether somebody may still be writing a temporary file named HOST-PID-RANDOM."""
    host, _, rest = path.name[1:].partition(f"{socket.gethostname()}-")
    pid = rest.partition("-")[0]
    if host or not pid.isdigit():
        try:
            return time.time() - path.stat().st_mtime < 24 * 3600
        except OSError:
            return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
