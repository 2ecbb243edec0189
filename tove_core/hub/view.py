"""Cuts the region of an image that is seen, and gives each input what it wants of it: resampled once, normalised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tove_core.errors import ConfigError, ImageError
from tove_core.hub.images import ImageSource, read_image
from tove_core.hub.rasters import Canvas, Colour, Raster, resampled
from tove_core.spec import Input

View = Literal["squash", "crop", "pad"]
"""squash: the whole image; crop: its central square; pad: the whole image, centred in a square."""

VIEWS: tuple[View, ...] = ("squash", "crop", "pad")


def resample(image: Tensor, view: View, input: Input) -> Tensor:
    """Return what `input` sees of an image: float32 [3, h, w], resampled once, antialiased, and normalised.

    The region depends on the image and the view alone, so every input covers the same extent whatever its size.

    Args:
        image: uint8 [3, H, W], or float [3, H, W] in 0..1, as `read_image` gives it.
        view: the region that is seen.
        input: size (h, w), interpolation and normalisation wanted.
    """
    return resample_all(image, view, [input])[input]


def resample_all(image: Tensor, view: View, inputs: Iterable[Input], fill: Colour | None = None) -> dict[Input, Tensor]:
    """Return for each input what `resample` gives it, to the last bit.

    Inputs of one size and interpolation share the resampling, however they are normalised. With `view="pad"` the
    padding has to be the same too: it is resampled with the image.

    Args:
        image: see `resample`.
        view: the region that is seen.
        inputs: what is wanted of it.
        fill: colour of the padding; None: what each input's normalisation takes to zero.
    """
    canvas = _cut(image, view)
    rasters = {input: Raster(input.size, input.interpolation, _fill(input, canvas, fill)) for input in inputs}
    pixels = resampled(canvas, dict.fromkeys(rasters.values()))
    return {input: _normalised(pixels[raster], input) for input, raster in rasters.items()}


def _cut(image: Tensor, view: View) -> Canvas:
    """Return the region, without a copy."""
    height, width = image.shape[1:]
    if view == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return Canvas(image[:, top : top + side, left : left + side], side, side)
    if view == "pad":
        side = max(height, width)
        return Canvas(image, side, side, (side - height) // 2, (side - width) // 2)
    return Canvas(image, height, width)


def _fill(input: Input, canvas: Canvas, fill: Colour | None) -> Colour | None:
    """Return the colour of padding, where there is any: what normalisation takes to zero, or the one that is given."""
    if not canvas.padded:
        return None
    if fill is not None:
        return fill
    low, high = input.range
    return tuple(((torch.tensor(input.mean) - low) / (high - low)).tolist())


def _normalised(pixels: Tensor, input: Input) -> Tensor:
    low, high = input.range
    mean = torch.tensor(input.mean, device=pixels.device)[:, None, None]
    std = torch.tensor(input.std, device=pixels.device)[:, None, None]
    return (pixels * (high - low)).add_(low).sub_(mean).div_(std)


@dataclass(frozen=True)
class Seen:
    """One image as some inputs see it, so that threads can prepare it before its batch is put together.

    Attributes:
        rows: by input, float32 [3, h, w].
        view: the region that was seen.
    """

    rows: Mapping[Input, Tensor]
    view: View


class Preprocessor:
    """Prepares a batch of images for every input of a model at once.

    What one key gets is a function of its own input and of the view, never of the other keys.
    """

    def __init__(self, inputs: Mapping[str, Input], view: View = "squash", fill: Colour | None = None) -> None:
        """Remember what is wanted.

        Args:
            inputs: what each key (CLIP, an expert) wants to see.
            view: the region of every image that is seen.
            fill: colour of the padding; None: what each input's normalisation takes to zero.

        Raises:
            ConfigError: there is no such view.
        """
        if view not in VIEWS:
            raise ConfigError(f"view {view!r} is not known; choose one of {', '.join(VIEWS)}")
        self.inputs = dict(inputs)
        self.view: View = view
        self.fill = fill

    def see(self, image: ImageSource) -> Seen:
        """Return what each input sees of one image; safe to call from several threads.

        Raises:
            ImageError: it cannot be read.
        """
        return Seen(resample_all(read_image(image).cpu(), self.view, self.inputs.values(), self.fill), self.view)

    def __call__(self, images: Sequence[ImageSource | Seen]) -> dict[str, Tensor]:
        """Return for each key a float32 tensor [B, 3, h, w] on the CPU.

        Keys with equal inputs share one tensor, so it must not be written to.

        Raises:
            ImageError: there are no images, one of them cannot be read, or what was seen was seen for other inputs or
                in another view.
        """
        if isinstance(images, (str, bytes)) or len(images) == 0:
            raise ImageError("no images were given; give a sequence of at least one image")
        wanted: dict[Input, list[Tensor]] = {input: [] for input in self.inputs.values()}
        for source in images:
            seen = source if isinstance(source, Seen) else self.see(source)
            if seen.view != self.view:
                raise ImageError(
                    f"an image was prepared in view {seen.view!r}, and this model sees {self.view!r}; prepare it with "
                    "the model's own preprocessor"
                )
            for input, rows in wanted.items():
                if input not in seen.rows:
                    raise ImageError("an image was prepared for other experts than are on now; prepare it again")
                rows.append(seen.rows[input])
        batches = {input: torch.stack(rows) for input, rows in wanted.items()}
        return {key: batches[input] for key, input in self.inputs.items()}
