"""Images that turn out unreadable while a data set is used: left out, counted and named, up to a limit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from tove_core.data.sample import ImageRef, Sample, load_image
from tove_core.errors import DataError, ImageError
from tove_core.hub.images import read_image

T = TypeVar("T")


class BrokenImages:
    """The tally of a data set's unreadable images.

    Args:
        total: number of distinct images.
        limit: share of them that may be unreadable, `data.max_broken`.
    """

    def __init__(self, total: int, limit: float) -> None:
        self.total, self.limit = total, limit
        self.reasons: dict[int, str] = {}
        """Why, by the number of the image."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.reasons)

    def add(self, row: int, reason: str) -> None:
        """Count image `row` once, and warn of it.

        Raises:
            DataError: there are now more than the limit allows.
        """
        if row in self.reasons:
            return
        self.reasons[row] = reason
        if len(self) > self.limit * self.total:
            raise DataError(
                f"{len(self)} of {self.total} images cannot be used, more than data.max_broken ({self.limit:g}) allows "
                f"(last: {reason}); 'tove data check' finds them all"
            )
        warnings.warn(f"{reason} ({len(self)} of {self.total} images so far are left out)", stacklevel=3)

    def kept(self, row: int, attempt: tuple[T, None] | tuple[None, str]) -> T | None:
        """Return what was read of image `row`; None where a reason is given instead, which is counted.

        Raises:
            DataError: too many are unreadable.
        """
        found, reason = attempt
        if reason is not None:
            self.add(row, reason)
        return found


def try_image(image: ImageRef) -> tuple[Tensor, None] | tuple[None, str]:
    """Return the pixels of an image, [3, H, W], or the sentence that says why there are none."""
    try:
        return read_image(load_image(image)), None
    except (DataError, ImageError) as error:
        return None, str(error)


def usable(samples: Sequence[Sample], rows: Sequence[Sequence[int]], broken: BrokenImages) -> list[Sample]:
    """Return the samples none of whose images, numbered in `rows` as `distinct_images` does, is known to be broken."""
    return [sample for sample, own in zip(samples, rows, strict=True) if not any(row in broken.reasons for row in own)]
