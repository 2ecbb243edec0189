from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from tove_core.errors import ContractError, PlacementError
from tove_core.hub.microbatch import MicroBatch, images_that_fit, is_out_of_memory, join
from tove_core.hub.regions import RegionBatch

CPU = torch.device("cpu")


class Small:
    """Takes up to `room` images, as a device does whose memory ends there; notes what it was asked for."""

    def __init__(self, room: int) -> None:
        self.room, self.asked = room, []

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        self.asked.append(len(pixels))
        if len(pixels) > self.room:
            raise torch.OutOfMemoryError(f"tried to hold {len(pixels)} images")
        return {"map": pixels * 2, "sum": pixels.sum((1, 2, 3))}


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, 5, 7, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_parts_come_back_as_one_batch_in_order(size: int) -> None:
    small, given = Small(99), pixels(7)
    found = MicroBatch("x", size).run(small, given, CPU)
    assert torch.equal(found["map"], given * 2) and torch.equal(found["sum"], Small(99)(given)["sum"])
    assert max(small.asked) == min(size, 7) and sum(small.asked) == 7


def test_what_does_not_fit_is_halved_until_it_does_and_stays_halved() -> None:
    small, parts = Small(2), MicroBatch("greedy", 9)
    with pytest.warns(UserWarning, match="'greedy' ran out of memory") as caught:
        found = parts.run(small, pixels(10), CPU)
    assert small.asked == [9, 4, 2, 2, 2, 2, 2] and len(caught) == 2 and parts.size == 2
    assert "micro_batch to 2" in str(caught[1].message)
    assert torch.equal(found["map"], pixels(10) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts.run(small, pixels(5), CPU)


def test_memory_that_ends_in_the_middle_keeps_what_was_done() -> None:
    small, given = Small(4), pixels(8)

    def shrinking(part: Tensor) -> dict[str, Tensor]:
        if len(small.asked) == 1:
            small.room = 1
        return small(part)

    with pytest.warns(UserWarning, match="ran out"):
        found = MicroBatch("x", 4).run(shrinking, given, CPU)
    assert small.asked == [4, 4, 2, 1, 1, 1, 1] and torch.equal(found["map"], given * 2)


def test_one_image_that_does_not_fit_is_an_error_that_names_the_way_out() -> None:
    told = r"'x' does not fit one image.*offload"
    with pytest.warns(UserWarning), pytest.raises(PlacementError, match=told) as caught:
        MicroBatch("x", 2).run(Small(0), pixels(3), CPU)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(part: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        MicroBatch("x", 2).run(broken, pixels(3), CPU)
    chained = RuntimeError("an expert failed")
    chained.__cause__ = torch.OutOfMemoryError("no")
    assert is_out_of_memory(chained) and not is_out_of_memory(RuntimeError("out of memory"))


def test_auto_tries_the_whole_batch_where_nothing_can_be_measured() -> None:
    small, parts = Small(5), MicroBatch("x", "auto")
    with pytest.warns(UserWarning, match="ran out"):
        parts.run(small, pixels(8), CPU)
    assert small.asked == [8, 4, 4] and parts.size == 4


def test_measured_memory_becomes_a_number_of_images() -> None:
    assert images_that_fit(need=10, free=1000) == 80
    assert images_that_fit(need=900, free=1000) == 1 and images_that_fit(need=0, free=0) == 1


def test_regions_are_joined_field_by_field() -> None:
    def batch(count: int, text: bool = True) -> RegionBatch:
        words = [[f"{count}-{i}-{j}" for j in range(3)] for i in range(count)] if text else None
        boxes = torch.rand(count, 3, 4)
        return RegionBatch(boxes=boxes, scores=boxes[..., 0], valid=boxes[..., 1] > 0.5, text=words)

    parts = [batch(2), batch(1)]
    whole = join(parts)
    assert whole.boxes.shape == (3, 3, 4) and torch.equal(whole.boxes[2], parts[1].boxes[0])
    assert whole.valid.dtype == torch.bool and whole.features is None and whole.masks is None
    assert whole.text == [*parts[0].text, *parts[1].text]
    with pytest.raises(ValueError, match="text is given for some"):
        join([batch(2), batch(1, text=False)])


def slots(count: int, masks: tuple[int, int] | None = (5, 4)) -> RegionBatch:
    """One image with so many slots; all of them hold something."""
    words = [[f"{count}.{i}" for i in range(count)]]
    valid = torch.ones(1, count, dtype=torch.bool)
    shapes = torch.rand(1, count, *masks) if masks else None
    return RegionBatch(torch.rand(1, count, 4), torch.rand(1, count), valid, torch.rand(1, count, 7), words, shapes)


@pytest.mark.parametrize("counts", [(2, 3, 0), (0, 1), (3, 1, 3)])
def test_parts_of_fewer_slots_get_empty_ones(counts: tuple[int, ...]) -> None:
    parts, most = [slots(count) for count in counts], max(counts)
    whole = join(parts)
    assert whole.valid.dtype == torch.bool and whole.valid.sum(1).tolist() == list(counts)
    for row, (count, part) in enumerate(zip(counts, parts, strict=True)):
        for name in ("boxes", "scores", "features", "masks"):
            joined, own = getattr(whole, name), getattr(part, name)
            assert joined.shape == (len(counts), most, *own.shape[2:])
            assert torch.equal(joined[row, :count], own[0]) and not joined[row, count:].any()
        assert whole.text is not None and whole.text[row] == [*part.text[0], *[""] * (most - count)]


@pytest.mark.parametrize(
    ("second", "told"),
    [(slots(2, masks=None), "masks is given for some"), (slots(2, masks=(4, 5)), r"are \[5, 4\] and \[4, 5\]")],
)
def test_parts_that_make_no_whole_are_told_with_the_experts_name(second: RegionBatch, told: str) -> None:
    parts = iter([slots(3), second])
    with pytest.raises(ContractError, match=f"'masked': output 'found' differs from part to part: .*{told}"):
        MicroBatch("masked", 1).run(lambda _: {"found": next(parts)}, pixels(2), CPU)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_auto_measures_one_image_and_chooses_what_fits() -> None:
    free = torch.cuda.mem_get_info()[0]
    share = free // 10 // (3 * 4 * 4 * 4)  # one image makes the expert hold a tenth of the free memory

    def hungry(part: Tensor) -> dict[str, Tensor]:
        held = part.repeat_interleave(share, 0)
        return {"sum": held.sum((1, 2, 3)).view(len(part), -1).mean(1)}

    given = torch.randn(30, 3, 4, 4, device="cuda")
    parts = MicroBatch("hungry", "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = parts.run(hungry, given, given.device)
    assert parts.size is not None and 1 <= parts.size <= 8
    torch.testing.assert_close(found["sum"], given.sum((1, 2, 3)), rtol=1e-3, atol=1e-3)
