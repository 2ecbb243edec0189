"""Images as callers give them, as a list; and the batches they are taken in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tove_core.checks import whole
from tove_core.errors import ImageError

_ONE = (str, bytes, bytearray, memoryview, os.PathLike, Mapping)
"""Forms of one image, or of what is none, that have a length and items all the same."""
_OBJECTS = frozenset("OUT")
"""Kinds of arrays whose items are pictures or paths."""


def listed(images: Any) -> list[Any]:
    """Return images as a list, given as one, a sequence, an iterator, or an array with a batch axis.

    A sequence is whatever has a length and items by number: a list, a deque, an array of paths or of pictures, a column
    of a data set. An open file is one image, though Python could iterate over its lines.
    """
    return list(images) if _several(images) else [images]


def _several(images: Any) -> bool:
    if isinstance(images, (Tensor, np.ndarray)):
        of_objects = isinstance(images, np.ndarray) and images.dtype.kind in _OBJECTS
        return images.ndim == (1 if of_objects else 4)
    if isinstance(images, _ONE) or hasattr(images, "read"):
        return False
    if isinstance(images, (Iterator, Sequence)):
        return True
    # Arrays of other libraries have axes: one of objects, or one more than an image.
    return hasattr(images, "__len__") and hasattr(images, "__getitem__") and getattr(images, "ndim", 1) in (1, 4)


def in_batches(counts: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield indices of samples in batches of at most `size` images; a batch is of samples with as many images.

    Args:
        counts: images of each sample.

    Raises:
        ConfigError: the size is below 1.
        ImageError: there is no sample.
    """
    size = whole(size, "batch_size", least=1)
    if not counts:
        raise ImageError("no image was given; give at least one")
    for count in sorted(set(counts)):
        own, step = [i for i, other in enumerate(counts) if other == count], max(1, size // count)
        yield from (own[start : start + step] for start in range(0, len(own), step))
