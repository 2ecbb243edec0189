"""Lays regions onto the token grid: what lies in each token, how much of it is covered, and where in its box it is.

Everything is a product of overlaps along the two axes, so coverage is exact and nothing loops over regions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GEOMETRY = 4
"""Channels beside the embedding: coverage, horizontal and vertical position in the box, log-area."""

TINY = 1e-12


def rasterise(
    boxes: Tensor,
    scores: Tensor,
    embeddings: Tensor,
    grid: tuple[int, int],
    *,
    masks: Tensor | None = None,
) -> Tensor:
    """Return tokens [B, N, C + 4] for regions of B images; tokens that no region touches are zero.

    With a the share of a token's cell that a region covers, s its score and w = a·s, a token gets
    c = 1 - Π(1 - w) over the regions, and c times the w-weighted mean of

    - the regions' embeddings,
    - the position in the box of the part of the cell that it covers, -1 (left, top) to 1 (right, bottom),
    - the region's log-area, 1 for the whole view and 0 for that of one token, -1 at least.

    Channels: embedding, c, horizontal position, vertical position, log-area. All of it moves continuously with boxes
    and scores, and does not depend on the order of the regions.

    Args:
        boxes: [B, R, 4], left, top, right, bottom in 0..1.
        scores: [B, R] in 0..1; 0 in slots that hold no region.
        embeddings: [B, R, C].
        grid: rows and columns of the tokens.
        masks: [B, R, h, w] in 0..1 over the whole view, each value covering one part of it evenly; they take the
            place of the boxes where coverage and area are concerned.
    """
    left, top, right, bottom = boxes.unbind(-1)
    across, middle_x = _overlap(left, right, grid[1])
    down, middle_y = _overlap(top, bottom, grid[0])
    if masks is None:
        coverage = down[..., :, None] * across[..., None, :]
        area = (right - left) * (bottom - top)
    else:
        coverage = _pool(masks, grid)
        area = masks.flatten(2).mean(-1)
    weights = (coverage.flatten(2) * scores[..., None]).clamp(0, 1)  # [B, R, N]
    total = weights.sum(1)
    covered = -torch.log1p(-weights).sum(1).expm1()  # 1 - Π(1 - w), exact for small w too
    # A sum that is all rounding has no meaningful mean; c is as small there, so the quotient may be cut.
    share = torch.where(total > TINY, covered / total.clamp(min=TINY), 0.0)
    x = middle_x[..., None, :].expand(coverage.shape).flatten(2)
    y = middle_y[..., :, None].expand(coverage.shape).flatten(2)
    size = _log_area(area, grid)[..., None]
    geometry = [(weights * value).sum(1) * share for value in (x, y, size)]
    meant = torch.einsum("brn,brc->bnc", weights, embeddings) * share[..., None]
    return torch.cat([meant, torch.stack([covered, *geometry], -1)], -1)


def _overlap(start: Tensor, end: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return, for intervals [B, R], the covered share of each cell and where in the interval that part's middle is.

    Both are [B, R, cells]; the middle is -1 at the interval's start and 1 at its end.
    """
    edges = torch.arange(cells + 1, device=start.device, dtype=start.dtype) / cells
    first = torch.maximum(start[..., None], edges[:-1])
    last = torch.minimum(end[..., None], edges[1:])
    share = ((last - first) * cells).clamp(0, 1)
    length = (end - start)[..., None]
    middle = (first + last - start[..., None] - end[..., None]) / length.clamp(min=TINY)
    # Outside the interval the middle means nothing; the share is zero there.
    return share, torch.where(length > TINY, middle.clamp(-1, 1), 0.0)


def _pool(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean of masks [B, R, h, w] over each cell of the grid, exact where cells cut values apart."""
    rows, columns = (_cut(masks.shape[2 + i], grid[i], masks) for i in (0, 1))
    return torch.einsum("ih,brhw,jw->brij", rows, masks, columns)


def _cut(values: int, cells: int, like: Tensor) -> Tensor:
    """Return [cells, values]: the share of each cell that each of so many equal parts takes."""
    parts = torch.arange(values + 1, device=like.device, dtype=like.dtype) / values
    edges = torch.arange(cells + 1, device=like.device, dtype=like.dtype) / cells
    first = torch.maximum(parts[None, :-1], edges[:-1, None])
    last = torch.minimum(parts[None, 1:], edges[1:, None])
    return ((last - first) * cells).clamp(min=0)


def _log_area(area: Tensor, grid: tuple[int, int]) -> Tensor:
    scale = math.log(max(grid[0] * grid[1], 2))
    return (1 + area.clamp(min=TINY).log() / scale).clamp(min=-1)
