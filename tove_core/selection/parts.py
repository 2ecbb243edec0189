"""Samples parted by image: some to learn from, some to choose price and rivals on, some to score all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from tove_core.data.sample import Sample, distinct_images
from tove_core.errors import DataError
from tove_core.training.examples import Examples

SHARES = (0.6, 0.2, 0.2)
"""Of the images: learnt from, chosen on, scored."""


class Parts(NamedTuple):
    """Three parts of a data set that have no image in common."""

    learn: Examples
    choose: Examples
    score: Examples


def parted(examples: Examples, seed: int) -> Parts:
    """Return the parts; samples that share an image, however indirectly, are in the same one.

    Raises:
        DataError: there are too few images.
    """
    return Parts(*map(examples.some, _divided(examples.rows, seed)))


def require_images(samples: Sequence[Sample], seed: int) -> None:
    """Refuse samples about too few images, before these are encoded.

    Raises:
        DataError: they are.
    """
    _divided(distinct_images(samples)[1], seed)


def _divided(rows: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
    """Return the indices of each part's samples.

    Args:
        rows: the images of each sample.
    """
    groups = of_group(rows)
    count = max(groups, default=-1) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = round(SHARES[0] * count), round((SHARES[0] + SHARES[1]) * count)
    bounds = ((0, first), (first, second), (second, count))
    place = {group: next(k for k, (low, high) in enumerate(bounds) if low <= i < high) for i, group in enumerate(order)}
    found = [[i for i, group in enumerate(groups) if place[group] == k] for k in range(len(bounds))]
    if min(len({groups[i] for i in own}) for own in found) < 2:
        raise DataError(
            f"the data have {count} images that are not asked about together, too few to learn from some and judge on "
            "others; give more"
        )
    return found


def of_group(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the number of each sample's group, from 0: samples that share an image are in one.

    Args:
        rows: the images of each sample.
    """
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for own in rows:
        for row in own[1:]:
            parent[root(row)] = root(own[0])
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(own[0]), len(numbers)) for own in rows]
