"""Draws what a scene contains and where it lies, so that every question about it is clear-cut."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

SIZE = 48
"""Both sides of an image, in pixels."""

SLOTS = 5
"""Objects an image can have at most."""

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
KINDS = ("disc", "square", "triangle", "ring", "cross")

_MARGIN = 5.5  # pixels between the border and the closest an object's centre comes to it
_RADII = (5.0, 8.5)
_ATTACH = 0.06  # chance that an object is put beside an earlier one instead of anywhere
_GAP = 0.12  # smallest difference in depth between two objects of one image
_VISIBLE = 0.55  # share of an object's pixels that must be seen


@dataclass(frozen=True)
class Layout:
    """What lies where in n scenes; objects beyond `count` hold draws that are never painted.

    Depth `z` runs from 0 (at the camera) to 1 (the background); positions and radii are in pixels.
    """

    count: Tensor  # int64 [n], 1 to SLOTS
    colour: Tensor  # int64 [n, SLOTS], index into COLOURS, distinct within a scene
    kind: Tensor  # int64 [n, SLOTS], index into KINDS
    x: Tensor  # float32 [n, SLOTS]
    y: Tensor  # float32 [n, SLOTS], downwards
    z: Tensor  # float32 [n, SLOTS]
    radius: Tensor  # float32 [n, SLOTS]

    @property
    def live(self) -> Tensor:
        """Which slots hold an object, bool [n, SLOTS]."""
        return torch.arange(SLOTS) < self.count[:, None]

    def __getitem__(self, index: Tensor) -> Self:
        """Return the scenes at `index`."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})


def signed_distance(layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Return each object's signed distance in pixels (negative inside), and the offsets dx and dy from its centre.

    All three are float32 [n, SLOTS, SIZE, SIZE].
    """
    axis = torch.arange(SIZE) + 0.5
    dx = (axis - layout.x[..., None])[:, :, None, :].expand(-1, -1, SIZE, -1)
    dy = (axis - layout.y[..., None])[:, :, :, None].expand(-1, -1, -1, SIZE)
    r = layout.radius[..., None, None]
    ax, ay, rho = dx.abs(), dy.abs(), torch.hypot(dx, dy)
    shapes = (
        rho - r,
        torch.maximum(ax, ay) - 0.85 * r,
        torch.maximum(0.894 * ax - 0.447 * dy - 0.5 * r, dy - 0.8 * r),
        (rho - 0.72 * r).abs() - 0.27 * r,
        torch.minimum(torch.maximum(ax - r, ay - 0.34 * r), torch.maximum(ay - r, ax - 0.34 * r)),
    )
    distance = shapes[0]
    for kind, shape in enumerate(shapes[1:], start=1):
        distance = torch.where((layout.kind == kind)[..., None, None], shape, distance)
    return distance, dx, dy


def instance_map(layout: Layout, distance: Tensor) -> Tensor:
    """Return which object is seen at each pixel, int64 [n, SIZE, SIZE]; 0 is background, k + 1 is slot k."""
    inside = (distance < 0) & layout.live[..., None, None]
    nearest = torch.ones(())  # the background's depth
    instance = torch.zeros_like(inside[:, 0], dtype=torch.int64)
    for slot in range(SLOTS):  # slot by slot, which is faster than an argmin over them
        depth = torch.where(inside[:, slot], layout.z[:, slot, None, None], 1.0)
        instance = torch.where(depth < nearest, slot + 1, instance)
        nearest = torch.minimum(depth, nearest)
    return instance


def contact_matrix(instance: Tensor) -> Tensor:
    """Return which pairs of objects touch, bool [n, SLOTS, SLOTS]: what is seen of them meets, if only at corners.

    Args:
        instance: which object is seen at each pixel, [n, SIZE, SIZE].
    """
    seen = _masks(instance)
    return _meet(_grow(seen, 1), seen)


def _masks(instance: Tensor) -> Tensor:
    return torch.stack([instance == slot + 1 for slot in range(SLOTS)], 1).float()


def _grow(masks: Tensor, pixels: int) -> Tensor:
    """Return the masks [n, SLOTS, SIZE, SIZE] with all pixels that are so near to one of theirs, diagonals counted."""
    for axis in (2, 3):
        grown, left = masks.clone(), masks.shape[axis]
        for step in range(1, pixels + 1):
            for start, other in ((0, step), (step, 0)):
                part = grown.narrow(axis, start, left - step)
                torch.maximum(part, masks.narrow(axis, other, left - step), out=part)
        masks = grown
    return masks


def _meet(a: Tensor, b: Tensor) -> Tensor:
    """Return which masks of `a` and `b` share a pixel, bool [n, SLOTS, SLOTS], not counting a slot with itself."""
    shared = a.flatten(2) @ b.flatten(2).transpose(1, 2)
    return (shared > 0.5) & ~torch.eye(SLOTS, dtype=torch.bool)


def draw(n: int, generator: torch.Generator) -> Layout:
    """Draw `n` layouts in which no object is mostly hidden and no pair is between touching and clearly apart.

    What an image contains is drawn once; only positions are drawn again until they are acceptable, so the number of
    objects stays uniform.
    """
    layout = _contents(n, generator)
    open_ = torch.arange(n)
    while len(open_):
        tried = _place(layout[open_], generator)
        for name in ("x", "y", "radius"):
            getattr(layout, name)[open_] = getattr(tried, name)
        open_ = open_[~_acceptable(tried)]
    return layout


def _contents(n: int, g: torch.Generator) -> Layout:
    count = torch.randint(1, SLOTS + 1, (n,), generator=g)
    colour = torch.rand(n, len(COLOURS), generator=g).argsort(1)[:, :SLOTS]
    # Kinds come from a palette of two or three per scene, so that they repeat and counting one kind is a real question.
    palette = torch.rand(n, len(KINDS), generator=g).argsort(1)
    choices = torch.randint(2, 4, (n, 1), generator=g)
    kind = palette.gather(1, (torch.rand(n, SLOTS, generator=g) * choices).long())
    rank = torch.rand(n, SLOTS, generator=g).masked_fill(torch.arange(SLOTS) >= count[:, None], 2).argsort(1).argsort(1)
    free = torch.rand(n, SLOTS, generator=g).masked_fill(torch.arange(SLOTS) >= count[:, None], 2).sort(1).values
    z = 0.03 + free * (0.94 - _GAP * (count[:, None] - 1)) + _GAP * torch.arange(SLOTS)
    zeros = torch.zeros(n, SLOTS)
    return Layout(count, colour, kind, zeros.clone(), zeros.clone(), z.gather(1, rank), zeros.clone())


def _place(layout: Layout, g: torch.Generator) -> Layout:
    n = len(layout.count)
    radius = _RADII[0] + (_RADII[1] - _RADII[0]) * torch.rand(n, SLOTS, generator=g)
    span = SIZE - 2 * _MARGIN
    x, y = _MARGIN + span * torch.rand(2, n, SLOTS, generator=g)
    for slot in range(1, SLOTS):
        parent = torch.randint(0, slot, (n, 1), generator=g)
        angle = 2 * torch.pi * torch.rand(n, generator=g)
        far = (radius[:, slot] + radius.gather(1, parent)[:, 0]) * (0.6 + 0.3 * torch.rand(n, generator=g))
        beside = torch.rand(n, generator=g) < _ATTACH
        for axis, step in ((x, angle.cos()), (y, angle.sin())):
            near = (axis.gather(1, parent)[:, 0] + far * step).clamp(_MARGIN, SIZE - _MARGIN)
            axis[:, slot] = torch.where(beside, near, axis[:, slot])
    return replace(layout, x=x, y=y, radius=radius)


def _acceptable(layout: Layout) -> Tensor:
    distance, _, _ = signed_distance(layout)
    instance = instance_map(layout, distance)
    whole = (distance < 0).sum((2, 3))
    seen = _masks(instance)
    visible = ((seen.sum((2, 3)) >= _VISIBLE * whole) | ~layout.live).all(1)
    grown = _grow(seen, 1)
    doubtful = _meet(_grow(grown, 1), grown) & ~_meet(grown, seen)
    return visible & ~doubtful.flatten(1).any(1)
