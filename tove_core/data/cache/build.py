"""Filling a cache: every image is read once, and each feature it lacks is computed once."""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tove_core.data.cache.places import Places
from tove_core.data.cache.store import FeatureStore
from tove_core.data.cache.writer import SHARD_BYTES, SHARD_SECONDS, Writer
from tove_core.data.sample import ImageRef, image_digest, image_name, load_image
from tove_core.errors import DataError, ToveError

Encode = Callable[[Sequence[Any], Sequence[str]], Mapping[str, Tensor]]
"""Gives for B images, read, and names of features each of those features, [B, N, C]."""

Read = Callable[[Any], Any]
"""Decodes an image: a path, bytes or pixels."""

Progress = Callable[[int, int], None]
_HEADROOM = 1.02
"""Headers, and what a file system rounds up."""


@dataclass(frozen=True)
class Estimate:
    """What a build has left to do.

    Attributes:
        images: how many there are.
        missing: by feature, how many images it lacks as far as is known without reading them.
        nbytes: what they will take.
        free: what the disk has.
    """

    images: int
    missing: Mapping[str, int]
    nbytes: int
    free: int

    @property
    def fits(self) -> bool:
        """Whether the disk has room for it."""
        return self.nbytes * _HEADROOM <= self.free

    def require_room(self, folder: Path) -> None:
        """Refuse to begin what cannot end.

        Raises:
            DataError: the disk has too little room.
        """
        if not self.fits:
            raise DataError(
                f"the features of {self.images:,} images need {self.nbytes:,} bytes in {folder}, whose disk has "
                f"{self.free:,} free; make room, choose another --out, or a smaller --dtype"
            )


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        images: how many there were.
        computed: by feature, the images it was computed of.
        present: images that lacked nothing.
        alike: images with the content of another one that was computed.
        broken: name of and reason for every image that could not be read; nothing was stored for it.
    """

    images: int = 0
    computed: dict[str, int] = field(default_factory=dict)
    present: int = 0
    alike: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Read:
    image: ImageRef
    digest: bytes = b""
    lacks: frozenset[str] = frozenset()
    pixels: Any = None
    fault: str = ""


class Builder:
    """Computes what some images lack in some stores.

    Several builders may fill the same stores at once, on one machine or many: whatever two of them compute both is
    stored twice and used once.

    Args:
        folder: of the cache.
        stores: by feature.
        images: the distinct images, or this process's share of them.
        shard_bytes, shard_seconds: see `Writer`.
    """

    def __init__(
        self,
        folder: Path,
        stores: Mapping[str, FeatureStore],
        images: Sequence[ImageRef],
        *,
        shard_bytes: int = SHARD_BYTES,
        shard_seconds: float = SHARD_SECONDS,
    ) -> None:
        self.folder, self.stores, self.images = folder, stores, images
        self.places = Places(folder)
        self.writer = Writer(stores, self.places, shard_bytes=shard_bytes, shard_seconds=shard_seconds)
        digests, self._known = self.places.known(images)
        self._missing = {name: ~self._known | (store.index.rows(digests) < 0) for name, store in stores.items()}

    def estimate(self, processes: int = 1) -> Estimate:
        """Return what is left to do; `processes` share the work evenly and the disk."""
        missing = {name: int(rows.sum()) * processes for name, rows in self._missing.items()}
        nbytes = sum(self.stores[name].row_bytes() * count for name, count in missing.items())
        # A folder that is yet to be made will lie on the disk of the nearest one that is there.
        place = self.folder.absolute()
        nearest = next(one for one in (place, *place.parents) if one.exists())
        return Estimate(len(self.images) * processes, missing, nbytes, shutil.disk_usage(nearest).free)

    def look(self) -> None:
        """Read the images that are not known by their places, and find what is there of their contents.

        Those that were moved or copied count as missing before; for an estimate that decides it must be known.
        """
        rows = np.flatnonzero(~self._known).tolist()
        images = [self.images[row] for row in rows]
        digests, faults = self.places.digests(images)
        for number, image in enumerate(images):
            if number not in faults:
                self.places.remember(image, digests[number].tobytes())
        for name, store in self.stores.items():
            self._missing[name][rows] = store.index.rows(digests) < 0  # of those that cannot be read nothing is there

    def run(
        self, encode: Encode, read: Read, *, batch_size: int = 64, workers: int = 4, progress: Progress | None = None
    ) -> BuildReport:
        """Compute and write what is missing; what is written stays whatever happens after.

        Args:
            encode: runs CLIP and the experts whose features it is asked for.
            read: decodes an image; a `ToveError` from it makes the image a broken one.
            batch_size: images per call of `encode`.
            workers: threads that read images ahead.
            progress: called with images done and images.

        Raises:
            DataError: a feature cannot be stored, or the disk cannot be written to.
        """
        report = BuildReport(len(self.images), dict.fromkeys(self.stores, 0))
        todo = np.flatnonzero(np.any(list(self._missing.values()), axis=0)).tolist()
        report.present = done = len(self.images) - len(todo)
        waiting: dict[frozenset[str], list[_Read]] = {}
        seen: set[bytes] = set()
        load = self._loader(read)
        for found in _ahead((self.images[row] for row in todo), load, workers, batch_size + workers):
            done += 1
            if found.fault:
                report.broken.append((image_name(found.image), found.fault))
            else:
                self.places.remember(found.image, found.digest)
                if found.digest in seen:
                    report.alike += 1
                elif found.lacks:
                    seen.add(found.digest)
                    batch = waiting.setdefault(found.lacks, [])
                    batch.append(found)
                    if len(batch) >= batch_size:
                        self._encode(encode, waiting.pop(found.lacks), report)
                else:
                    report.present += 1
            if progress is not None and (done % batch_size == 0 or done == len(self.images)):
                progress(done, len(self.images))
        for batch in waiting.values():
            self._encode(encode, batch, report)
        self.writer.flush()
        return report

    def _encode(self, encode: Encode, batch: Sequence[_Read], report: BuildReport) -> None:
        names = [name for name in self.stores if name in batch[0].lacks]
        features = encode([one.pixels for one in batch], names)
        self.writer.add([one.digest for one in batch], features, [image_name(one.image) for one in batch])
        for name in names:
            report.computed[name] += len(batch)

    def _loader(self, read: Read) -> Callable[[ImageRef], _Read]:
        def load(image: ImageRef) -> _Read:
            try:
                given = load_image(image)
                if isinstance(given, Path):
                    given = given.read_bytes()  # once, for the digest and the pixels
                if isinstance(given, bytes):
                    digest = hashlib.sha256(given).digest()
                else:
                    digest = bytes.fromhex(image_digest(given))
                wanted = np.frombuffer(digest, np.uint8)[None]
                lacks = frozenset(name for name, store in self.stores.items() if store.index.rows(wanted)[0] < 0)
                return _Read(image, digest, lacks, read(given) if lacks else None)
            except OSError as error:
                return _Read(image, fault=f"it cannot be read ({(error.strerror or str(error)).lower()})")
            except ToveError as error:
                return _Read(image, fault=str(error))

        return load


def _ahead(images: Iterator[ImageRef], load: Callable[[ImageRef], _Read], workers: int, depth: int) -> Iterator[_Read]:
    """Yield what `load` gives for each image, in order, while up to `depth` are read ahead."""
    with ThreadPoolExecutor(workers) as pool:
        queue: deque[Future[_Read]] = deque()
        try:
            for image in images:
                queue.append(pool.submit(load, image))
                if len(queue) > depth:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()
