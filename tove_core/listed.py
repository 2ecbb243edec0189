"""Images as callers give them, as a list; and the batches they are taken in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tove_core.checks import whole
from tove_core.errors import ImageError


def listed(images: Any) -> list[Any]:
    """Return images as a list, given as one, a sequence, an iterator, or an array with a batch axis.

    An open file is one image, though Python could iterate over its lines.
    """
    if isinstance(images, (list, tuple)) or (isinstance(images, Iterator) and not hasattr(images, "read")):
        return list(images)
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim == 4:
        return list(images)
    return [images]


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
