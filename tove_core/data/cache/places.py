"""Which bytes lie where: remembers the sha256 of image files, so that training need not read them all to begin."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from tove_core.data.cache.index import DigestIndex
from tove_core.data.cache.shards import KEYS, SUFFIX, read_shard, write_shard
from tove_core.data.images import FileImage, PackedImage
from tove_core.data.parts import ImagePart
from tove_core.data.sample import ImageRef, image_digest
from tove_core.errors import DataError, ImageError

FOLDER = "images"
_DIGEST = "digest"


class Places:
    """The digests of image files by place, size and time of change; in the folder `images` of a cache.

    Those of parts of an image are kept by its file and their box: to read one, the image must be decoded.

    Its shards are small, so each is held to its sha256 when it is read.

    Args:
        folder: of the cache.

    Raises:
        DataError: a shard is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        files = sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        shards = [read_shard(path).require_intact() for path in files]
        empty = np.empty((0, 32), np.uint8)
        self._index = DigestIndex(np.concatenate([empty, *(shard.keys() for shard in shards)]))
        self._digests = np.concatenate([empty, *(shard.tensors()[_DIGEST].numpy() for shard in shards)])
        self._new: dict[bytes, bytes] = {}

    def known(self, images: Sequence[ImageRef]) -> tuple[np.ndarray, np.ndarray]:
        """Return the digest of each image, uint8 [M, 32], and whether it was known without reading it, bool [M].

        Images that are not known have a digest of zeros; files that are gone are not known.
        """
        places = np.zeros((len(images), 32), np.uint8)
        for row, place in enumerate(_places(images)):
            if place is not None:
                places[row] = np.frombuffer(place, np.uint8)
        rows = self._index.rows(places)
        digests = np.zeros((len(images), 32), np.uint8)
        digests[rows >= 0] = self._digests[rows[rows >= 0]]
        return digests, rows >= 0

    def digests(self, images: Sequence[ImageRef], workers: int = 4) -> tuple[np.ndarray, dict[int, str]]:
        """Return the digest of every image, uint8 [M, 32]; those that are not known are read.

        Returns:
            The digests, zeros for images that cannot be read; and why they cannot, by the number of the image.
        """
        digests, known = self.known(images)
        unknown = np.flatnonzero(~known).tolist()
        faults: dict[int, str] = {}
        if unknown:
            with ThreadPoolExecutor(workers) as pool:
                read = pool.map(_read, (images[row] for row in unknown))
                for row, found in zip(unknown, read, strict=True):
                    if isinstance(found, bytes):
                        digests[row] = np.frombuffer(found, np.uint8)
                    else:
                        faults[row] = found
        return digests, faults

    def remember(self, image: ImageRef, digest: bytes) -> None:
        """Keep an image's digest until the next `save`."""
        if (place := _place(image)) is not None:
            self._new[place] = digest

    def save(self) -> None:
        """Write what was remembered.

        Raises:
            DataError: the folder cannot be written to.
        """
        if not self._new:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder} cannot be written ({error.strerror}); choose another place") from error
        tensors = {KEYS: _rows(self._new), _DIGEST: _rows(self._new.values())}
        write_shard(self.folder, tensors, "the images' digests")
        self._new.clear()


def _rows(digests: Iterable[bytes]) -> torch.Tensor:
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)


def _read(image: ImageRef) -> bytes | str:
    """Return the digest of an image, or the sentence that says why it cannot be read."""
    try:
        return bytes.fromhex(image_digest(image))
    except (DataError, ImageError) as error:
        return str(error)


def _places(images: Iterable[ImageRef]) -> Iterator[bytes | None]:
    """Yield `_place` of each image; of parts of one image that follow each other, its file is looked at once."""
    whole: ImageRef = None
    place: bytes | None = None
    for image in images:
        if isinstance(image, ImagePart):
            if image.whole is not whole:
                whole, place = image.whole, _place(image.whole)
            yield _part_place(image, place)
        else:
            yield _place(image)


def _part_place(part: ImagePart, whole: bytes | None) -> bytes | None:
    """Return a hash of the place of a part's whole and of the box; None: the whole has none."""
    if whole is None:
        return None
    box = ",".join(float(edge).hex() for edge in part.box)
    return hashlib.sha256(whole + f"#{box}".encode()).digest()


def _place(image: ImageRef) -> bytes | None:
    """Return a hash of where an image lies and of its file's state; None: it is no file, or gone."""
    if isinstance(image, ImagePart):
        return _part_place(image, _place(image.whole))
    if isinstance(image, PackedImage):
        file, inside = image.archive, f"!{image.name}!{image.offset}!{image.size}"
    elif isinstance(image, (Path, FileImage)):
        file, inside = image, ""
    else:
        return None
    try:
        state = os.stat(file)  # noqa: PTH116  # a third faster than Path.stat, for millions of files
    except OSError:
        return None
    text = f"{os.path.abspath(file)}{inside}\0{state.st_size}\0{state.st_mtime_ns}"  # noqa: PTH100  # as above
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
