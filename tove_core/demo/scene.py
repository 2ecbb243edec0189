"""Renders the scenes: coloured shapes in depth, lit by day, by night, or by each on its own side of a line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_core.demo.layout import (
    COLOURS,
    KINDS,
    SIZE,
    SLOTS,
    Layout,
    contact_matrix,
    draw,
    instance_map,
    signed_distance,
)

CHUNK = 250
"""Scenes rendered at a time; scene i of a seed is the same however many are asked for."""

_RGB = torch.tensor(
    [[0.9, 0.15, 0.15], [0.15, 0.75, 0.2], [0.2, 0.3, 0.95], [0.92, 0.85, 0.15], [0.65, 0.2, 0.8], [0.15, 0.8, 0.85]]
)
_SPLIT = 0.5  # share of images that are part day and part night


@dataclass(frozen=True)
class Scenes:
    """n rendered scenes and all that questions about them need; slots beyond `count` are meaningless."""

    image: Tensor  # uint8 [n, 3, SIZE, SIZE], RGB
    depth: Tensor  # float16 [n, SIZE, SIZE], 0 at the camera, 1 the background
    instance: Tensor  # uint8 [n, SIZE, SIZE], 0 background, k + 1 the object in slot k
    night: Tensor  # bool [n, SIZE, SIZE], which pixels are lit by night
    count: Tensor  # int64 [n]
    colour: Tensor  # int64 [n, SLOTS]
    kind: Tensor  # int64 [n, SLOTS]
    x: Tensor  # float32 [n, SLOTS], pixels
    y: Tensor  # float32 [n, SLOTS], pixels, downwards
    z: Tensor  # float32 [n, SLOTS]
    contact: Tensor  # bool [n, SLOTS, SLOTS], which pairs touch

    def __len__(self) -> int:
        """Return how many scenes there are."""
        return len(self.image)

    def __getitem__(self, index: slice | Tensor) -> Self:
        """Return the scenes at `index`."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """Return the scenes of all `parts`, in order."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})


@dataclass(frozen=True)
class Facts:
    """One scene in plain words and numbers, one entry per object."""

    colours: list[str]
    kinds: list[str]
    x: list[float]
    y: list[float]
    z: list[float]
    touches: list[list[bool]]

    def __len__(self) -> int:
        """Return how many objects the scene has."""
        return len(self.colours)


def facts(scenes: Scenes) -> list[Facts]:
    """Return what there is to say about each scene."""
    found = []
    columns = (scenes.count, scenes.colour, scenes.kind, scenes.x, scenes.y, scenes.z, scenes.contact)
    for n, colour, kind, x, y, z, contact in zip(*(c.tolist() for c in columns), strict=True):
        found.append(
            Facts(
                colours=[COLOURS[c] for c in colour[:n]],
                kinds=[KINDS[k] for k in kind[:n]],
                x=x[:n],
                y=y[:n],
                z=z[:n],
                touches=[row[:n] for row in contact[:n]],
            )
        )
    return found


def render(seed: int, start: int, stop: int) -> Scenes:
    """Render scenes `start` to `stop` (exclusive) of the endless sequence that `seed` names."""
    first, last = start // CHUNK, -(-stop // CHUNK)
    parts = [_chunk(seed, index) for index in range(first, max(last, first + 1))]
    return Scenes.join(parts)[start - first * CHUNK : stop - first * CHUNK]


def boundaries(instance: Tensor) -> Tensor:
    """Return the boundary class of each pixel, int64 [n, SIZE, SIZE].

    0 is no boundary, 1 an object's pixel beside the background, 2 an object's pixel beside another object (which
    wins); diagonal neighbours count.
    """
    height, width = instance.shape[1:]
    padded = F.pad(instance.float()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    edge, contact = torch.zeros_like(instance, dtype=torch.bool), torch.zeros_like(instance, dtype=torch.bool)
    for dy, dx in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
        other = padded[:, dy : dy + height, dx : dx + width]
        differs = (other != instance) & (instance > 0)
        edge |= differs & (other == 0)
        contact |= differs & (other > 0)
    return torch.where(contact, 2, edge.long())


def kind_map(scenes: Scenes) -> Tensor:
    """Return the kind seen at each pixel, int64 [n, SIZE, SIZE]; 0 is background, k + 1 is kind k."""
    return _lookup(scenes.instance, scenes.kind)


def colour_map(scenes: Scenes) -> Tensor:
    """Return the object colour seen at each pixel, int64 [n, SIZE, SIZE]; 0 is background, k + 1 is colour k."""
    return _lookup(scenes.instance, scenes.colour)


def _lookup(instance: Tensor, values: Tensor) -> Tensor:
    table = F.pad(values + 1, (1, 0))
    return table.gather(1, instance.flatten(1).long()).view(instance.shape)


@lru_cache(maxsize=4)  # 4 MB each: one who opens a small world again, as the claims bench does, need not draw it again
def _chunk(seed: int, index: int) -> Scenes:
    """Return the scenes of a chunk; they are shared, so that whoever hands them on copies them."""
    g = torch.Generator().manual_seed(seed * 1_000_003 + index)
    layout = draw(CHUNK, g)
    distance, dx, dy = signed_distance(layout)
    instance = instance_map(layout, distance)
    night = _night(CHUNK, g)
    image = _paint(layout, distance, dx, dy, night, g)
    depth = F.pad(layout.z, (1, 0), value=1.0).gather(1, instance.flatten(1)).view(instance.shape)
    return Scenes(
        image=(image * 255).round().to(torch.uint8),
        depth=depth.half(),
        instance=instance.to(torch.uint8),
        night=night,
        count=layout.count,
        colour=layout.colour,
        kind=layout.kind,
        x=layout.x,
        y=layout.y,
        z=layout.z,
        contact=contact_matrix(instance),
    )


def _night(n: int, g: torch.Generator) -> Tensor:
    """Return where it is night, bool [n, SIZE, SIZE]: beyond a random line in half of the images, else all or none."""
    axis = torch.arange(SIZE) + 0.5 - SIZE / 2
    angle = 2 * torch.pi * torch.rand(n, 1, 1, generator=g)
    offset = 20 * torch.rand(n, 1, 1, generator=g) - 10
    beyond = axis[None, None] * angle.cos() + axis[None, :, None] * angle.sin() > offset
    split = torch.rand(n, 1, 1, generator=g) < _SPLIT
    return torch.where(split, beyond, torch.rand(n, 1, 1, generator=g) < 0.5)


def _paint(layout: Layout, distance: Tensor, dx: Tensor, dy: Tensor, night: Tensor, g: torch.Generator) -> Tensor:
    """Return the images, float32 [n, 3, SIZE, SIZE] in 0..1: objects from far to near over a cloudy background."""
    n = len(layout.count)

    def rand(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=g)

    dark = night[:, None].float()
    clouds = F.interpolate(torch.randn(n, 1, 5, 5, generator=g), size=(SIZE, SIZE), mode="bicubic")
    ground = (0.45 + 0.2 * rand(1, 1, 1)) * (1 + 0.15 * (rand(3, 1, 1) - 0.5)) + 0.06 * clouds
    image = ground * (1 - 0.65 * dark)
    haze = 0.85 + 0.1 * rand(1, 1, 1)
    tint = _RGB[layout.colour] * (0.8 + 0.35 * rand(SLOTS, 1))
    stripes = _stripes(dx, dy, g)
    cover = (0.5 - distance).clamp(0, 1) * layout.live[..., None, None]
    index = torch.arange(n)
    for slot in layout.z.argsort(1, descending=True).T:
        z = layout.z[index, slot][:, None, None, None]
        colour = tint[index, slot][:, :, None, None] * stripes[index, slot][:, None]
        by_day = colour * (1 - 0.6 * z) + haze * 0.6 * z
        # Headlights wash out what is near; so whiteness means far by day and near by night.
        glare = 0.35 * (1 - z)
        by_night = (colour * (1 - glare) + glare) * (1 - 0.55 * z)
        alpha = cover[index, slot][:, None]
        image = torch.lerp(image, torch.lerp(by_day, by_night, dark), alpha)
    image = image * (1 - dark * (0.1 + 0.2 * rand(1, 1, 1))) * _slope(n, g)
    noise = torch.randn(n, 3, SIZE, SIZE, generator=g)
    return (image + noise * (0.025 + 0.01 * dark)).clamp(0, 1)


def _stripes(dx: Tensor, dy: Tensor, g: torch.Generator) -> Tensor:
    """Return a factor near 1 per object and pixel, [n, SLOTS, SIZE, SIZE]; about half of the objects are striped."""
    angle, phase, frequency, strength, plain = torch.rand(5, *dx.shape[:2], 1, 1, generator=g)
    wave = torch.sin(
        (0.6 + 0.9 * frequency) * (dx * (torch.pi * angle).cos() + dy * (torch.pi * angle).sin()) + 6 * phase
    )
    return 1 + 0.18 * strength * (plain < 0.6) * wave


def _slope(n: int, g: torch.Generator) -> Tensor:
    """Return a smooth change of brightness across the image, [n, 1, SIZE, SIZE]."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    angle = 2 * torch.pi * torch.rand(n, 1, 1, generator=g)
    return (1 + 0.2 * (axis[None, None] * angle.cos() + axis[None, :, None] * angle.sin()))[:, None]
