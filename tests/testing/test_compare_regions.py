"""What counts as the same regions: each has its counterpart, in whatever order and beside however many empty slots."""

from __future__ import annotations

import math

import pytest
import torch

from tove_core.hub.regions import RegionBatch
from tove_core.testing.compare import difference, row

COUNT, SLOTS = 5, 7


def found(images: int = 2, slots: int = SLOTS, count: int = COUNT, seed: int = 0) -> RegionBatch:
    """Return `count` regions per image, the other slots empty."""
    draw = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(images, count, 2, generator=draw) / 2, torch.rand(images, count, 2, generator=draw) / 2
    valid = (torch.arange(slots) < count).expand(images, slots)

    def padded(values):
        return torch.cat([values, values.new_zeros(images, slots - count, *values.shape[2:])], 1)

    words = [[f"{image}-{one}" for one in range(count)] + [""] * (slots - count) for image in range(images)]
    return RegionBatch(
        boxes=padded(torch.cat([corner, corner + side], -1)),
        scores=padded(0.5 + torch.rand(images, count, generator=draw) / 2),
        valid=valid,
        features=padded(torch.randn(images, count, 3, generator=draw)),
        text=words,
        masks=padded(torch.rand(images, count, 4, 5, generator=draw)),
    )


def changed(value: RegionBatch, **fields) -> RegionBatch:
    return RegionBatch(**(vars(value) | fields))


def apart(one: RegionBatch, other: RegionBatch):
    return difference({"things": one}, {"things": other})


def test_order_and_empty_slots_do_not_matter():
    value = found()
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    texts = [[line[at] for at in order] for line in value.text or ()]
    moved = {field: held[:, order] for field, held in vars(value).items() if isinstance(held, torch.Tensor)}
    assert apart(RegionBatch(**moved, text=texts), value).largest == 0
    assert apart(found(slots=COUNT), found(slots=SLOTS)).largest == 0


@pytest.mark.parametrize("part", ["boxes", "scores", "features", "masks"])
def test_one_number_of_one_region_is_found_in_every_part(part):
    value = found()
    numbers = getattr(value, part).clone()
    numbers[1, 2].view(-1)[-1] *= 0.9
    difference = apart(changed(value, **{part: numbers}), value)
    assert difference.name == f"things.{part}"
    assert 0.01 < difference.largest < 0.11


def test_another_text_and_texts_of_another_image_are_found():
    value = found()
    one = [list(line) for line in value.text or ()]
    one[0][4] = "zebra"
    assert vars(apart(changed(value, text=one), value)) == {"name": "things.text", "largest": 1.0}
    assert apart(changed(value, text=(value.text or ())[::-1]), value).name == "things.text"


def test_a_part_of_a_batch_keeps_everything_a_region_has():
    value = found()
    second = row({"things": value}, 1)["things"]
    assert isinstance(second, RegionBatch)
    assert second.text == [(value.text or ())[1]]
    for part in ("boxes", "scores", "valid", "features", "masks"):
        assert torch.equal(getattr(second, part), getattr(value, part)[1:])


def test_another_number_of_regions_is_found_and_none_at_all_are_equal():
    assert vars(apart(found(count=4), found())) == {"name": "things.regions", "largest": 0.2}
    assert apart(found(count=0), found()).largest == 1
    assert apart(found(count=0, slots=0), found(count=0)).largest == 0
    empty = {"code": torch.zeros(0, 3)}
    assert difference(empty, dict(empty)).largest == 0
    assert math.isinf(difference(empty, {"code": torch.zeros(0, 2)}).largest)


def test_one_region_in_twenty_may_have_no_counterpart_since_rounding_decides_what_is_kept():
    value = found(images=1, slots=40, count=40)
    for missed, ok in ((2, True), (3, False)):
        boxes = value.boxes.clone()
        boxes[0, :missed] = 1 - boxes[0, :missed].flip(-1)
        assert (apart(changed(value, boxes=boxes), value).largest < 1e-6) == ok
    for missed, largest in ((2, 0), (3, 3 / 40)):
        assert apart(changed(value, valid=value.valid & (torch.arange(40) >= missed)), value).largest == largest


def test_what_is_computed_coarsely_is_compared_by_scores_alone():
    value = found()
    other = changed(found(seed=1, slots=COUNT), scores=value.scores[:, :COUNT].flip(1))
    assert difference({"things": other}, {"things": value}, coarse=True).largest == 0
    assert apart(other, value).largest > 0.1
