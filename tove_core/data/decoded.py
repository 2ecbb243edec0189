"""The last few images that were decoded whole, for parts of them are asked for one after the other."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock

from torch import Tensor

from tove_core.data.images import FileImage, PackedImage
from tove_core.data.sample import ImageRef, load_image
from tove_core.hub.images import read_image

IMAGES, BYTES = 8, 1 << 27
"""What is kept at most: as many images as threads read parts of at a time, of 128 MiB together, or the last one."""


def decoded(image: ImageRef) -> Tensor:
    """Return the pixels [3, H, W] of an image, not to be written to; those of a file's are kept for its next part.

    Safe to call from several threads: those that want one image wait for the first of them.

    Raises:
        DataError: the image is missing.
        ImageError: it cannot be decoded.
    """
    key = _key(image)
    return read_image(load_image(image)) if key is None else _KEPT.get(key, lambda: read_image(load_image(image)))


def _key(image: ImageRef) -> Hashable | None:
    """Return what tells a file's contents from what it was before; None: they are no file's, or it is not there."""
    file = image.archive if isinstance(image, PackedImage) else image
    if not isinstance(file, (Path, FileImage)):
        return None
    try:
        known = os.stat(file)  # noqa: PTH116  # a FileImage is no Path
    except (OSError, ValueError):
        return None  # whoever reads it says why
    where = (image.offset, image.size) if isinstance(image, PackedImage) else ()
    return (os.fspath(file), known.st_mtime_ns, known.st_size, known.st_ino, *where)


class _Entry:
    """An image that is being decoded, or was."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.pixels: Tensor | None = None


class Recent:
    """Values of the keys that were asked for last, each made once by the first thread that asks."""

    def __init__(self, images: int, size: int) -> None:
        self._images, self._size = images, size
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the value of a key, made now where it is not kept; where that fails, the next one tries again."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.pixels is None:
                entry.pixels = make()
                self._forget()
            return entry.pixels

    def _forget(self) -> None:
        with self._lock:
            sizes = {key: 0 if one.pixels is None else one.pixels.nbytes for key, one in self._entries.items()}
            while len(sizes) > 1 and (len(sizes) > self._images or sum(sizes.values()) > self._size):
                oldest = next(iter(sizes))
                del self._entries[oldest], sizes[oldest]


_KEPT = Recent(IMAGES, BYTES)
