"""What the checks find in experts that give regions: boxes and texts of another image, impossible ones."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from tove_core.hub.regions import RegionBatch
from tove_core.spec import Regions
from tove_core.testing import CheckFailed
from tove_core.testing.geometry import inspect_regions


class Detects(nn.Module):
    """Finds the brightest quarter of each image; `spoil` changes its lists of boxes and of labels, one per image."""

    def __init__(self, spoil=lambda pixels, boxes, labels: None, slots=3) -> None:
        super().__init__()
        self.spoil, self.slots = spoil, slots

    def forward(self, pixels):
        quarters = nn.functional.adaptive_avg_pool2d(pixels.mean(1), 2).flatten(1).argmax(1).tolist()
        boxes = [[0.5 * (q % 2), 0.25 * q, 0.5 * (q % 2) + 0.4, 0.25 * q + 0.2] for q in quarters]
        labels = [f"{level:.6f}" for level in pixels.mean((1, 2, 3)).tolist()]
        self.spoil(pixels, boxes, labels)
        valid = (torch.arange(self.slots) < 1).expand(len(pixels), -1)
        return {
            "things": RegionBatch(
                boxes=pixels.new_tensor(boxes)[:, None].repeat(1, self.slots, 1),
                scores=pixels.new_full(valid.shape, 0.5),
                valid=valid,
                text=[[label] * self.slots for label in labels],
            )
        }


def of_the_first(pixels, boxes, labels):
    boxes[:], labels[:] = boxes[:1] * len(boxes), labels[:1] * len(labels)


def of_the_brightest(pixels, boxes, labels):
    best = int(pixels.mean((1, 2, 3)).argmax())
    boxes[:] = [[0.1 * best, 0.2, 0.5, 0.6]] * len(boxes)
    labels[:] = ["a cat"] * len(labels)


def of_the_last(pixels, boxes, labels):
    labels[:] = labels[-1:] * len(labels)


THINGS = {"outputs": {"things": Regions(limit=3, text=True)}, "cost": None}


@pytest.mark.parametrize("spoil", [of_the_first, of_the_brightest, of_the_last])
def test_a_detector_that_gives_one_image_what_it_found_in_another_is_found(spoil, offer, verdict):
    result = verdict("batch-independent", offer(lambda ctx: Detects(spoil), **THINGS))
    assert result.status == "failed"
    assert re.search(r"things\.(boxes|text) differs by", result.detail), result.detail
    assert verdict("batch-independent", offer(lambda ctx: Detects(), **THINGS)).status == "passed"


class Pads(Detects):
    """Has as many slots as the image of the batch needs in which most is found."""

    def forward(self, pixels):
        self.slots = 1 + len(pixels)
        return super().forward(pixels)


class FindsNothing(Detects):
    """Has no slots at all."""

    def __init__(self) -> None:
        super().__init__(slots=0)


@pytest.mark.parametrize("detector", [Pads, FindsNothing])
def test_a_detector_may_have_as_many_slots_as_it_likes(detector, offer, everything):
    results = everything(offer(lambda ctx: detector(), **THINGS))
    assert [r for r in results.values() if not r.ok] == []


def regions(box=(0.1, 0.2, 0.4, 0.9), score=0.5, **more) -> RegionBatch:
    valid = torch.tensor([[True, False]])
    given = {"boxes": torch.tensor([[box, (9.0, 9.0, -9.0, -9.0)]]), "scores": torch.tensor([[score, -7.0]])}
    return RegionBatch(**(given | {"valid": valid} | more))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (regions(box=(12.0, 3.0, 40.0, 9.0)), r"\[12.0, 3.0, 40.0, 9.0\]; coordinates are in 0..1"),
        (regions(box=(0.5, 0.5, 0.2, 0.9)), "wanted left, top, right, bottom"),
        (regions(box=(float("nan"),) * 4), "coordinates are in 0..1"),
        (regions(score=3.5), "a score of 3.5"),
        (regions(valid=torch.tensor([[1, 0]])), "wanted bool"),
        (regions(masks=torch.full((1, 2, 3, 3), 2.0)), "masks outside"),
        (regions(), "wants 1 lists of 2 strings"),
        (regions(text=[["a"]]), "wants 1 lists of 2 strings"),
    ],
)
def test_impossible_regions_are_found(value, says):
    with pytest.raises(CheckFailed, match=says):
        inspect_regions("things", Regions(limit=2, text=True), value)


def test_possible_regions_pass_and_slots_that_hold_none_do_not_matter():
    assert inspect_regions("things", Regions(limit=2, text=True), regions(text=[["a", ""]])) == 1
    with pytest.raises(CheckFailed, match="the spec's limit is 1"):
        inspect_regions("things", Regions(limit=1), regions())
