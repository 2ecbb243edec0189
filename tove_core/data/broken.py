"""Images that turn out unreadable while a data set is used: left out, counted and named, up to a limit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from tove_core.data.sample import ImageRef, Sample, load_image
from tove_core.errors import DataError, ImageError
from tove_core.hub.images import read_image

T = TypeVar("T")


class LeftOut:
    """The tally of what a data set holds and cannot be used.

    Args:
        total: of how many.
        limit: share of them that may be unusable, `data.max_broken`.
        what: what they are, in the plural.
        cure: what helps to find them all.
    """

    def __init__(self, total: int, limit: float, what: str, cure: str) -> None:
        self.total, self.limit, self.what, self.cure = total, limit, what, cure
        self.reasons: dict[int, str] = {}
        """Why, by their number."""
        self._told = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.reasons)

    def add(self, row: int, reason: str) -> None:
        """Count number `row` once, and warn of it.

        Raises:
            DataError: there are now more than the limit allows.
        """
        if row in self.reasons:
            return
        self.reasons[row] = reason
        self._require_few(reason)
        warnings.warn(f"{reason} ({len(self)} of {self.total} {self.what} so far are left out)", stacklevel=3)

    @property
    def untold(self) -> int:
        """How many were counted since `news` was last asked for."""
        return len(self) - self._told

    def news(self) -> dict[int, str]:
        """Return those that were counted since it was last asked for: what other processes do not know."""
        new = dict(list(self.reasons.items())[self._told :])
        self._told = len(self)
        return new

    def learn(self, reasons: Mapping[int, str]) -> None:
        """Count what several processes found, the same in each of them; who found it has warned of it.

        Raises:
            DataError: there are now more than the limit allows, in the same words in every process.
        """
        if not reasons:
            return
        self.reasons = dict(sorted({**self.reasons, **reasons}.items()))
        self._told = len(self)
        self._require_few(reasons[max(reasons)])

    def _require_few(self, last: str) -> None:
        if len(self) > self.limit * self.total:
            raise DataError(
                f"{len(self)} of {self.total} {self.what} cannot be used, more than data.max_broken ({self.limit:g}) "
                f"allows (last: {last}); {self.cure}"
            )


class BrokenImages(LeftOut):
    """The tally of a data set's unreadable images.

    Args:
        total: number of distinct images.
        limit: share of them that may be unreadable, `data.max_broken`.
    """

    def __init__(self, total: int, limit: float) -> None:
        super().__init__(total, limit, "images", "'tove data check' finds them all")

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
