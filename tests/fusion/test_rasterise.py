from __future__ import annotations

import math

import pytest
import torch

from tove_core.fusion.rasterise import rasterise


def draw(batch=2, regions=5, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(batch, regions, 2, 2, generator=generator).sort(dim=2).values
    boxes = corners.flatten(2)
    return (
        boxes,
        torch.rand(batch, regions, generator=generator),
        torch.randn(batch, regions, channels, generator=generator),
    )


def slow(boxes, scores, embeddings, grid, masks=None):
    """The formula of docs/reference/method.md, token by token and region by region, with Python's floats."""
    rows, columns = grid
    batch, count, channels = embeddings.shape
    out = torch.zeros(batch, rows * columns, channels + 4, dtype=torch.float64)
    for b in range(batch):
        for n in range(rows * columns):
            i, j = divmod(n, columns)
            cell = (j / columns, i / rows, (j + 1) / columns, (i + 1) / rows)
            missing, total, sums = 1.0, 0.0, [0.0] * (channels + 3)
            for r in range(count):
                x0, y0, x1, y1 = boxes[b, r].tolist()
                left, top, right, bottom = max(x0, cell[0]), max(y0, cell[1]), min(x1, cell[2]), min(y1, cell[3])
                inside = right > left and bottom > top
                if masks is None:
                    share = (right - left) * (bottom - top) * rows * columns if inside else 0.0
                    area = (x1 - x0) * (y1 - y0)
                else:
                    share, area = pixels_in(masks[b, r].tolist(), cell), masks[b, r].double().mean().item()
                weight = share * scores[b, r].item()
                x = ((left + right) - (x0 + x1)) / (x1 - x0) if x1 > x0 else 0.0
                y = ((top + bottom) - (y0 + y1)) / (y1 - y0) if y1 > y0 else 0.0
                size = max(-1.0, 1 + math.log(max(area, 1e-12)) / math.log(max(rows * columns, 2)))
                values = [*embeddings[b, r].tolist(), min(1.0, max(-1.0, x)), min(1.0, max(-1.0, y)), size]
                sums = [s + weight * v for s, v in zip(sums, values, strict=True)]
                total += weight
                missing *= 1 - weight
            if total > 0:
                c = 1 - missing
                means = [s / total * c for s in sums]
                out[b, n] = torch.tensor([*means[:channels], c, *means[channels:]], dtype=torch.float64)
    return out


def pixels_in(mask, cell):
    """The mean of a mask over a cell, pixel by pixel."""
    height, width, total = len(mask), len(mask[0]), 0.0
    for i, row in enumerate(mask):
        for j, value in enumerate(row):
            across = min((j + 1) / width, cell[2]) - max(j / width, cell[0])
            down = min((i + 1) / height, cell[3]) - max(i / height, cell[1])
            total += value * max(across, 0.0) * max(down, 0.0)
    return total / ((cell[2] - cell[0]) * (cell[3] - cell[1]))


@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (7, 2)])
def test_boxes_follow_the_formula_of_the_method(grid):
    given = draw()
    torch.testing.assert_close(rasterise(*given, grid).double(), slow(*given, grid), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("size", [(4, 9), (3, 5), (1, 1), (2, 3)])
def test_masks_follow_the_formula_whether_they_are_finer_or_coarser_than_the_grid(size):
    boxes, scores, embeddings = draw(regions=3)
    masks = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(9))
    got = rasterise(boxes, scores, embeddings, (3, 5), masks=masks)
    torch.testing.assert_close(got.double(), slow(boxes, scores, embeddings, (3, 5), masks), rtol=1e-4, atol=2e-5)


def test_a_mask_that_fills_its_box_covers_what_the_box_covers():
    boxes = torch.tensor([[[0.2, 0.25, 0.6, 0.75]]])
    mask = torch.zeros(1, 1, 8, 10)
    mask[..., 2:6, 2:6] = 1
    scores, embeddings = torch.tensor([[0.7]]), torch.randn(1, 1, 4)
    plain = rasterise(boxes, scores, embeddings, (3, 3))
    torch.testing.assert_close(rasterise(boxes, scores, embeddings, (3, 3), masks=mask), plain, rtol=1e-4, atol=1e-6)


def test_the_order_of_regions_never_matters():
    boxes, scores, embeddings = draw(regions=9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = rasterise(boxes[:, order], scores[:, order], embeddings[:, order], (4, 5))
    torch.testing.assert_close(shuffled, rasterise(boxes, scores, embeddings, (4, 5)), rtol=1e-5, atol=1e-5)


def test_coverage_adds_up_to_the_area_of_a_box():
    boxes = torch.tensor([[[0.11, 0.23, 0.52, 0.91]]])
    tokens = rasterise(boxes, torch.ones(1, 1), torch.zeros(1, 1, 0), (6, 7))
    assert tokens[..., 0].mean().item() == pytest.approx(0.41 * 0.68, rel=1e-5)


def test_a_box_on_the_edges_of_tokens_fills_them_and_no_others():
    boxes = torch.tensor([[[0.25, 0.5, 0.75, 1.0]]])
    tokens = rasterise(boxes, torch.ones(1, 1), torch.tensor([[[2.0, -3.0]]]), (4, 4)).unflatten(1, (4, 4))
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[2:, 1:3] = True
    assert torch.equal(tokens[0, ..., 2], inside.float())
    assert torch.equal(tokens[0, ..., :2], inside[..., None] * torch.tensor([2.0, -3.0]))
    torch.testing.assert_close(tokens[0, 2, 1, 3:], torch.tensor([-0.5, -0.5, 1 + math.log(0.25) / math.log(16)]))
    torch.testing.assert_close(tokens[0, 3, 2, 3:5], torch.tensor([0.5, 0.5]))


def test_background_is_zero_and_so_is_everything_without_regions():
    boxes, scores, embeddings = draw()
    assert torch.equal(rasterise(boxes, torch.zeros_like(scores), embeddings, (3, 4)), torch.zeros(2, 12, 7))
    assert torch.equal(
        rasterise(boxes[:, :0], scores[:, :0], embeddings[:, :0], (3, 4), masks=torch.zeros(2, 0, 5, 5)),
        torch.zeros(2, 12, 7),
    )


def test_a_region_fades_in_with_its_score():
    boxes, _, embeddings = draw(batch=1, regions=2)
    with_it = [rasterise(boxes, torch.tensor([[0.8, s]]), embeddings, (3, 3)) for s in (0.0, 1e-6, 1e-3)]
    torch.testing.assert_close(with_it[0], with_it[1], rtol=0, atol=1e-5)
    assert 1e-5 < (with_it[2] - with_it[0]).abs().max() < 0.02
    alone = rasterise(boxes[:, :1], torch.tensor([[1e-9]]), embeddings[:, :1], (3, 3))
    assert alone.isfinite().all() and alone.abs().max() < 1e-7


def test_a_box_without_area_leaves_no_trace():
    boxes = torch.tensor([[[0.3, 0.1, 0.3, 0.9], [1.0, 1.0, 1.0, 1.0]]])
    tokens = rasterise(boxes, torch.ones(1, 2), torch.ones(1, 2, 3), (4, 4))
    assert torch.equal(tokens, torch.zeros(1, 16, 7))


def test_images_do_not_see_each_other():
    boxes, scores, embeddings = draw(batch=3)
    together = rasterise(boxes, scores, embeddings, (3, 5))
    for b in range(3):
        alone = rasterise(boxes[b : b + 1], scores[b : b + 1], embeddings[b : b + 1], (3, 5))
        torch.testing.assert_close(alone[0], together[b], rtol=1e-6, atol=1e-6)
