from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tove_experts.adapters.text_lines import connected, find_lines


def flooded(mask: Tensor) -> list[list[tuple[int, int]]]:
    """Connected parts of a mask [H, W], pixel by pixel, in the order of their first pixels."""
    left = {tuple(place) for place in mask.nonzero().tolist()}
    parts = []
    for first in sorted(left):
        if first not in left:
            continue
        left.discard(first)
        part, border = [first], [first]
        while border:
            y, x = border.pop()
            near = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (y + i, x + j) in left]
            left.difference_update(near)
            part += near
            border += near
        parts.append(sorted(part))
    return parts


@pytest.mark.parametrize("share", [0.15, 0.3, 0.4, 0.6])
def test_parts_are_those_of_flooding(share: float) -> None:
    masks = torch.rand(3, 23, 31, generator=torch.Generator().manual_seed(int(share * 100))) < share
    for labels, mask in zip(connected(masks), masks, strict=True):
        expected = torch.full((23 * 31,), 23 * 31)
        for part in flooded(mask):
            for y, x in part:
                expected[y * 31 + x] = part[0][0] * 31 + part[0][1]
        assert torch.equal(labels, expected)


def test_a_long_winding_part_is_one() -> None:
    mask = torch.zeros(1, 40, 41, dtype=torch.bool)
    mask[0, ::2] = True
    for row in range(1, 40, 2):
        mask[0, row, 0 if row % 4 == 1 else -1] = True
    assert set(connected(mask)[0].tolist()) == {0, 40 * 41}


def test_nothing_and_everything_are_found() -> None:
    nothing = connected(torch.zeros(2, 4, 5, dtype=torch.bool))
    assert torch.equal(nothing, torch.full((2, 20), 20))
    assert torch.equal(connected(torch.ones(1, 4, 5, dtype=torch.bool)), torch.zeros(1, 20, dtype=torch.long))
    lines = find_lines(torch.zeros(2, 4, 5), limit=3)
    assert lines.boxes.shape == (2, 0, 4) and lines.valid.shape == (2, 0)


def test_boxes_are_grown_by_area_over_perimeter_and_sorted_by_score() -> None:
    maps = torch.zeros(2, 60, 90)
    maps[0, 10:20, 20:60] = 0.7  # 40x10: grown by 400 * 1.5 / 100 = 6
    maps[0, 40:46, 4:10] = 0.9  # 6x6: grown by 36 * 1.5 / 24 = 2.25
    maps[0, 50, 80] = 1.0  # noise
    maps[0, 5:9, 70:88] = 0.5  # unsure
    maps[1, 55:60, 80:90] = 0.8  # 10x5: grown by 50 * 1.5 / 30 = 2.5, cut off at the border
    lines = find_lines(maps, limit=5)
    assert lines.valid.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(lines.scores, torch.tensor([[0.9, 0.7], [0.8, 0.0]]))
    torch.testing.assert_close(lines.boxes[0, 0], torch.tensor([1.75, 37.75, 12.25, 48.25]))
    torch.testing.assert_close(lines.boxes[0, 1], torch.tensor([14.0, 4.0, 66.0, 26.0]))
    torch.testing.assert_close(lines.boxes[1, 0], torch.tensor([77.5, 52.5, 90.0, 60.0]))


def test_only_the_best_are_kept() -> None:
    maps = torch.zeros(1, 20, 100)
    for i in range(6):
        maps[0, 5:15, 16 * i : 16 * i + 10] = 0.61 + 0.05 * i
    lines = find_lines(maps, limit=2)
    torch.testing.assert_close(lines.scores, torch.tensor([[0.86, 0.81]]))


def test_boxes_and_scores_are_those_of_flooding_on_noise() -> None:
    maps = torch.rand(1, 30, 40, generator=torch.Generator().manual_seed(3))
    lines = find_lines(maps, limit=99, threshold=0.75, box_threshold=0.0, smallest=1, unclip=0.0)
    expected = []
    for part in flooded(maps[0] > 0.75):
        ys, xs = zip(*part, strict=True)
        mean = sum(maps[0, y, x].item() for y, x in part) / len(part)
        expected.append((mean, [min(xs), min(ys), max(xs) + 1, max(ys) + 1]))
    expected.sort(key=lambda one: -one[0])
    assert len(expected) > 20 and int(lines.valid.sum()) == len(expected)
    torch.testing.assert_close(lines.scores[0], torch.tensor([mean for mean, _ in expected]))
    assert lines.boxes[0].tolist() == [box for _, box in expected]
