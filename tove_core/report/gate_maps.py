"""Pictures of the gate: for each image, how much of each expert every token gets. Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from tove_core.checks import path_given
from tove_core.errors import ConfigError
from tove_core.hub.images import ImageSource, read_image
from tove_core.hub.view import View, resample
from tove_core.listed import listed
from tove_core.model import ToveModel
from tove_core.spec import Input

CELL = 144
GAP = 8
HEAD = 22
# Dark blue over green to yellow: order is readable without colour too.
_STOPS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64)


def write_gate_maps(model: ToveModel, images: ImageSource | Sequence[ImageSource], path: str | Path) -> Path:
    """Write one picture: a row per image, the image itself and then the gate of each expert over it.

    All maps share one scale, from no weight to the largest weight in the picture; the head names the experts, the
    foot the scale. The image is shown as the model sees it.

    Args:
        images: as `ToveModel.gates` takes them.
        path: of a PNG, or of another kind of picture that Pillow writes, named by its suffix.

    Raises:
        ConfigError: the model has no gate, or the path is a folder or that of no picture.
        ImageError: there is no image, or one cannot be read.
    """
    path, images = path_given(path, "the picture"), listed(images)
    if path.is_dir() or Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ConfigError(f"{path} is no file of a picture; give one that ends in .png")
    gates = model.gates(images)
    largest = max(float(grid.max()) for grid in gates.values())
    width = (len(gates) + 1) * (CELL + GAP) + GAP
    height = HEAD + len(images) * (CELL + GAP) + HEAD
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for column, label in enumerate(["image", *gates]):
        pen.text((GAP + column * (CELL + GAP), 5), label[:23], fill="black")
    for row, source in enumerate(images):
        picture = seen(source, model.config.view, CELL)
        top = HEAD + row * (CELL + GAP)
        canvas.paste(picture, (GAP, top))
        for column, grid in enumerate(gates.values(), start=1):
            canvas.paste(over(picture, grid[row], largest), (GAP + column * (CELL + GAP), top))
    pen.text((GAP, height - HEAD + 5), scale_of(largest), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)
    return path


def over(picture: Image.Image, grid: Tensor, largest: float) -> Image.Image:
    """Return a picture in grey with the gate of one expert over it.

    Args:
        picture: what the model sees, RGB.
        grid: gate [rows, columns] on CLIP's grid.
        largest: the gate that is shown brightest; 0 is darkest.
    """
    heat = Image.fromarray(colours(grid.float().cpu().numpy() / max(largest, 1e-9)))
    return Image.blend(picture.convert("L").convert("RGB"), heat.resize(picture.size, Image.Resampling.NEAREST), 0.6)


def scale_of(largest: float) -> str:
    """Return what the colours of maps mean whose brightest is a gate of `largest`."""
    return f"gate: darkest 0, brightest {largest:.2f}; 1 is the weight of equal gates"


def colours(values: np.ndarray) -> np.ndarray:
    """Map values in 0..1 [h, w] to RGB, uint8 [h, w, 3]."""
    place = np.clip(values, 0, 1) * (len(_STOPS) - 1)
    low = np.minimum(place.astype(int), len(_STOPS) - 2)
    part = (place - low)[..., None]
    return np.round(_STOPS[low] * (1 - part) + _STOPS[low + 1] * part).astype(np.uint8)


def seen(source: ImageSource, view: View, side: int) -> Image.Image:
    """Return the region of an image that a model sees, as a square of `side` pixels."""
    plain = resample(read_image(source), view, Input(size=(side, side)))
    return Image.fromarray((plain.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
