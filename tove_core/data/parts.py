"""Parts of an image as images of their own: the boxes of a strip, the tiles of a picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tove_core.data.decoded import decoded
from tove_core.data.images import StoredImage
from tove_core.data.sample import ImageRef, image_key
from tove_core.errors import DataError


@dataclass(frozen=True)
class ImagePart(StoredImage):
    """A rectangle of an image, cut out of its decoded pixels.

    Attributes:
        whole: the image it is cut from.
        box: left, top, right and bottom as fractions of its width and height.
    """

    whole: ImageRef
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        """Refuse a box without extent or outside of the image."""
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise DataError(f"a part {self.box} of an image was asked for; left < right and top < bottom within 0..1")

    @property
    def key(self) -> str:
        """The image's name and the box."""
        return f"{image_key(self.whole)}#{','.join(f'{edge:.9g}' for edge in self.box)}"

    def read(self) -> Tensor:
        """Return the part, [3, h, w], at least one pixel in each direction.

        Raises:
            DataError: the image is missing.
            ImageError: it cannot be decoded.
        """
        pixels = decoded(self.whole)
        _, height, width = pixels.shape
        left, right = _span(self.box[0], self.box[2], width)
        top, bottom = _span(self.box[1], self.box[3], height)
        # Copied: a view would keep the whole image in memory.
        return pixels[:, top:bottom, left:right].clone()


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Return the pixels of an interval; neighbours that share an edge share no pixel."""
    first = min(round(low * size), size - 1)
    return first, max(first + 1, round(high * size))


def tiled(images: tuple[ImageRef, ...], k: int) -> tuple[ImageRef, ...]:
    """Return each image followed by its k x k tiles, row by row."""
    edges = [i / k for i in range(k + 1)]
    boxes = [(edges[x], edges[y], edges[x + 1], edges[y + 1]) for y in range(k) for x in range(k)]
    return tuple(part for image in images for part in (image, *(ImagePart(image, box) for box in boxes)))
