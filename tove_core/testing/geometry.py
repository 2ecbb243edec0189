"""Checks of where outputs lie: maps must not be turned or mirrored, regions must lie in the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.hub.regions import RegionBatch
from tove_core.spec import Grid, Input, Regions
from tove_core.testing.bench import bench, run
from tove_core.testing.compare import require_regions
from tove_core.testing.definition import CheckFailed, NotApplicable, defines
from tove_core.testing.images import normalised
from tove_core.testing.subject import Subject

Turn = Callable[[Tensor], Tensor]

TURNS: dict[str, Turn] = {
    "as it should be": lambda field: field,
    "mirrored left to right": lambda field: field.flip(-1),
    "mirrored top to bottom": lambda field: field.flip(-2),
    "turned by 180 degrees": lambda field: field.flip(-1, -2),
    "with rows and columns swapped": lambda field: field.mT,
    "turned by 90 degrees to the left": lambda field: field.mT.flip(-2),
    "turned by 90 degrees to the right": lambda field: field.mT.flip(-1),
    "swapped along the other diagonal": lambda field: field.mT.flip(-1, -2),
}
"""How a map may lie over its image, by what a failure calls it."""

_SIDE = 6
_PLACES = ((1, 0), (2, 4), (5, 1))
_CLEAR = 1.2


@defines(
    "grid-follows-image",
    "module",
    summary="shows a change of the image where it was made",
    cause="Height and width are swapped, the map is mirrored, or tokens [B, N, C] were reshaped to [B, C, H, W] "
    "without a transpose, which scatters every position over the whole map. Of an expert without weights: the map is "
    "made without the pixels, or its values were cut to whole numbers.",
    cure="`tokens.transpose(1, 2).reshape(B, C, H, W)`, height before width. If the architecture really spreads every "
    "change evenly while its weights are random, list the check as an expected failure with that reason.",
)
def grid_follows_image(subject: Subject) -> str:
    """Change one place of an image after another and look where each map changes most."""
    grids = {key: output for key, output in subject.spec.outputs.items() if isinstance(output, Grid)}
    if not grids:
        raise NotApplicable("it gives no grid")
    at = bench(subject)
    images, changed = _changes(at.input)
    outputs = run(at.expert, torch.cat([images, changed]))
    final = _is_final(at.expert.module, subject)
    notes = [_follows(key, outputs[key], final=final) for key in grids]
    if all(note.startswith("?") for note in notes):
        raise NotApplicable(notes[0][1:])
    return ", ".join(note.lstrip("?") for note in notes)


def _changes(input: Input) -> tuple[Tensor, Tensor]:
    """Return an image [1, 3, H, W], and a copy of it per place in which that place is another."""
    draw = torch.Generator().manual_seed(7)
    image = 0.4 + 0.2 * torch.rand(1, 3, *input.size, generator=draw)
    changed = image.repeat(len(_PLACES), 1, 1, 1)
    for index, (y, x) in enumerate(_PLACES):
        rows, columns = (
            slice(side * at // _SIDE, side * (at + 1) // _SIDE) for at, side in zip((y, x), input.size, strict=True)
        )
        area = changed[index, :, rows, columns]
        changed[index, :, rows, columns] = torch.rand(area.shape, generator=draw).round()
    return normalised(image, input), normalised(changed, input)


def _is_final(module: nn.Module, subject: Subject) -> bool:
    """Tell whether no weights are to come: it computes now what it always will."""
    held = len([*module.parameters()]), len([*module.buffers()])
    return held == (0, 0) or (held[0] == 0 and subject.spec.weights is None)


def _follows(key: str, maps: Tensor | RegionBatch, *, final: bool) -> str:
    """Return a note; one that begins with a question mark says why nothing could be told.

    Raises:
        CheckFailed: the map does not lie as the image does, or is `final` and the same for all images.
    """
    if not isinstance(maps, Tensor) or min(maps.shape[-2:]) < 2:
        return f"?{key} has too few positions to tell"
    energy = (maps[1:] - maps[:1]).square().sum(1)
    if not energy.max() > 1e-12 * maps.square().mean().clamp(min=1e-12):
        if final:
            raise CheckFailed(f"'{key}' is the same whatever the image, and the expert has no weights to change that")
        return f"?{key} does not depend on the image while its weights are random"
    energy = F.adaptive_avg_pool2d(energy[:, None], _SIDE)[:, 0]
    energy = energy / energy.sum((1, 2), keepdim=True)
    wanted = torch.zeros_like(energy)
    for index, (y, x) in enumerate(_PLACES):
        wanted[index, y, x] = 1
    found = {name: float((turn(wanted) * energy).sum((1, 2)).mean()) for name, turn in TURNS.items()}
    best, second = sorted(found, key=lambda name: -found[name])[:2]
    if found[best] < _CLEAR * found[second]:
        raise CheckFailed(f"a change of the image is nowhere to be found in '{key}': it is spread over the whole map")
    if best != next(iter(TURNS)):
        raise CheckFailed(f"'{key}' is {best}")
    return f"{key}: {found[best]:.0%} of a change lie in its place, {found[second]:.0%} in the next likely"


@defines(
    "regions-in-range",
    "module",
    summary="gives boxes in 0..1 as left, top, right, bottom, with scores in 0..1",
    cause="Boxes are in pixels, or are centre, width and height, or scores are logits.",
    cure="Divide by the input's width and height, convert (`torchvision.ops.box_convert`), clamp to 0..1, and squash "
    "scores with a sigmoid or softmax.",
    owns=("regions",),
)
def regions_in_range(subject: Subject) -> str:
    """Look at every region that is valid."""
    regions = {key: output for key, output in subject.spec.outputs.items() if isinstance(output, Regions)}
    if not regions:
        raise NotApplicable("it gives no regions")
    outputs = bench(subject).outputs
    notes = []
    for key, output in regions.items():
        value = outputs[key]
        if not isinstance(value, RegionBatch):
            raise CheckFailed(f"output '{key}' is {type(value).__name__}; wanted RegionBatch")
        notes.append(f"{key}: {inspect_regions(key, output, value)} of {value.valid.numel()} slots hold a region")
    require_regions({key: outputs[key] for key in regions})
    return ", ".join(notes)


def inspect_regions(key: str, output: Regions, value: RegionBatch) -> int:
    """Return how many regions are valid.

    Raises:
        CheckFailed: one of them lies outside of the image, has no extent, or has an impossible score.
    """
    if value.valid.dtype is not torch.bool:
        raise CheckFailed(f"'{key}'.valid is {value.valid.dtype}; wanted bool")
    batch, slots = value.valid.shape
    if slots > output.limit:
        raise CheckFailed(f"'{key}' has {slots} slots; the spec's limit is {output.limit}")
    boxes, scores = value.boxes[value.valid], value.scores[value.valid]
    if boxes.numel() and not (boxes.min() >= 0 and boxes.max() <= 1):
        raise CheckFailed(f"'{key}' has box {_numbers(boxes, ~((boxes >= 0) & (boxes <= 1)))}; coordinates are in 0..1")
    upside_down = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if upside_down.any():
        raise CheckFailed(f"'{key}' has box {_numbers(boxes, upside_down[:, None])}; wanted left, top, right, bottom")
    if scores.numel() and not (scores.min() >= 0 and scores.max() <= 1):
        raise CheckFailed(f"'{key}' has a score of {scores.max():.3g} or {scores.min():.3g}; scores are in 0..1")
    if value.masks is not None and value.masks.numel() and not 0 <= value.masks.min() <= value.masks.max() <= 1:
        raise CheckFailed(f"'{key}' has masks outside of 0..1")
    if output.text and (value.text is None or [len(line) for line in value.text] != [slots] * batch):
        raise CheckFailed(f"'{key}' wants {batch} lists of {slots} strings in text")
    return int(value.valid.sum())


def _numbers(boxes: Tensor, wrong: Tensor) -> list[float]:
    first = wrong.any(1).nonzero()[0, 0]
    return [round(float(number), 3) for number in boxes[first]]
