from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tove_core.errors import DataError
from tove_core.selection.parts import of_group, parted
from tove_core.training.examples import Examples


def test_samples_that_share_an_image_however_indirectly_are_one_group() -> None:
    rows = [(0,), (1, 2), (3,), (2, 4), (0,), (5, 4), (6,)]
    assert of_group(rows) == [0, 1, 2, 1, 0, 1, 3]
    assert of_group([]) == []


def test_parts_have_no_image_in_common_and_leave_none_out(toy: Any) -> None:
    model = toy.build([])
    samples = [replace(one, id=f"{one.id}-{k}") for one in toy.samples() for k in range(2)]
    parts = parted(Examples(model, samples), seed=3)
    images = [{one.image for one in part.samples} for part in parts]
    assert [len(own) for own in images] == [7, 3, 2] and len(set().union(*images)) == 12
    assert sorted(one.id for part in parts for one in part.samples) == sorted(one.id for one in samples)
    again, other = (parted(Examples(model, samples), seed=seed) for seed in (3, 4))
    assert [one.id for one in again.learn.samples] == [one.id for one in parts.learn.samples]
    assert {one.id for one in other.learn.samples} != {one.id for one in parts.learn.samples}


def test_too_few_images_are_refused(toy: Any) -> None:
    with pytest.raises(DataError, match=r"the data have 4 images .* too few"):
        parted(Examples(toy.build([]), toy.samples()[:4]), seed=0)
    with pytest.raises(DataError, match="the data have 0 images"):
        parted(Examples(toy.build([]), []), seed=0)
