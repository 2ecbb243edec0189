"""The splits do not overlap and refuse what they do not have."""

from __future__ import annotations

import pytest
import torch

from tove_core.demo.splits import SPLITS, TRAIN, VALIDATION, split
from tove_core.errors import DataError


def test_no_two_splits_share_a_seed() -> None:
    assert len({s.seed for s in SPLITS.values()}) == len(SPLITS) == 4


def test_splits_hold_different_images() -> None:
    first = [s.scenes(0, 3).image for s in SPLITS.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])


def test_a_smaller_split_is_the_beginning_of_the_larger() -> None:
    small = split("train", 5)
    scenes = small.scenes()
    assert len(scenes) == 5
    assert torch.equal(scenes.image, TRAIN.scenes(0, 9).image[:5])
    assert small.questions(scenes) == TRAIN.questions(TRAIN.scenes(0, 9))[:5]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 4), (0, 1001)])
def test_a_range_outside_is_refused(start: int, stop: int) -> None:
    with pytest.raises(DataError, match="'validation'"):
        VALIDATION.scenes(start, stop)


@pytest.mark.parametrize(("name", "size"), [("dev", None), ("train", 0)])
def test_unknown_splits_and_sizes_are_refused(name: str, size: int | None) -> None:
    with pytest.raises(DataError):
        split(name, size)
