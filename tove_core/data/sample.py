"""The one form every data set is read into: images, perhaps a prompt, and the texts that are right."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tove_core.data.collector import without_collector
from tove_core.data.images import StoredImage
from tove_core.errors import DataError

ImageRef = Path | bytes | StoredImage | Any
"""A file, encoded bytes, a member of a tar archive, or pixels (a CPU tensor, an array, a PIL image)."""


class _Kept:
    """Room for the keys of a sample's images where it took reading all bytes or pixels to know them."""

    __slots__ = ("_digests",)


@dataclass(frozen=True, slots=True, init=False)
class Sample(_Kept):
    """One image, or several, with what is asked about it and what should be said.

    Two samples are equal when everything but the pixels is; `image_keys` tell images apart.

    Attributes:
        id: unique within its data set; errors and per-sample scores use it.
        image: where the pixels are; a tuple for several images, whose tokens follow each other in that order. The name
            of a file, given as text, becomes a `Path`.
        prompt: the question, or None for a caption.
        targets: every text that is right (five captions, ten answers); empty only where nothing is trained or scored.
        kind: group that scores are broken down by (kind of question); "" for none.
        meta: whatever else the data set says, JSON values only.
        source: name of the part of a mixture it is from; "" where there is no mixture.
        weight: how often it comes per epoch.
    """

    id: str
    image: ImageRef = field(compare=False)
    prompt: str | None
    targets: tuple[str, ...]
    kind: str
    meta: Mapping[str, Any] = field(hash=False)
    source: str
    weight: float

    def __init__(
        self,
        id: str,
        image: ImageRef,
        prompt: str | None = None,
        targets: tuple[str, ...] = (),
        kind: str = "",
        meta: Mapping[str, Any] | None = None,
        source: str = "",
        weight: float = 1.0,
    ) -> None:
        """Refuse what no later step could use."""
        if not isinstance(id, str) or not id:
            raise DataError(f"a sample has the id {id!r}, but ids are texts that are not empty; give it one")
        if image is None or (isinstance(image, tuple) and (not image or any(one is None for one in image))):
            raise DataError(f"sample {id!r} has no image, but every sample needs one; drop it or add the image")
        if not isinstance(targets, tuple):
            given = type(targets).__name__
            raise DataError(f"sample {id!r} has targets of type {given}, but a tuple of texts is wanted; convert it")
        for text in targets:
            if not isinstance(text, str) or not text.strip():
                raise _says_nothing(id, text)
        if prompt is not None and (not isinstance(prompt, str) or not prompt.strip()):
            raise _says_nothing(id, prompt)
        if isinstance(image, (str, tuple)):
            image = _with_paths(image)
        # The way in which dataclasses set what is frozen takes twice as long, and a data set has millions of samples.
        _set_id(self, id)
        _set_image(self, image)
        _set_prompt(self, prompt)
        _set_targets(self, targets)
        _set_kind(self, kind)
        _set_meta(self, {} if meta is None else meta)
        _set_source(self, source)
        _set_weight(self, weight)

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The images in order, whether there is one or several."""
        return self.image if isinstance(self.image, tuple) else (self.image,)

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Names of the images, the same for samples that share one."""
        found: tuple[str, ...] | None = getattr(self, "_digests", None)
        if found is None:
            found = tuple(map(image_key, self.images))
            # Digests are kept; names are cheap to make, and a million of them large to keep.
            if not all(isinstance(image, (Path, StoredImage)) for image in self.images):
                object.__setattr__(self, "_digests", found)
        return found

    @property
    def image_key(self) -> str:
        """One name for all that is seen, the same for samples that see the same."""
        return " ".join(self.image_keys)

    def load(self) -> Any:
        """Return the image as a path, encoded bytes or pixels (a member of an archive is read now); a list of several.

        Raises:
            DataError: an archive cannot be read any more.
        """
        loaded = [load_image(image) for image in self.images]
        return loaded if isinstance(self.image, tuple) else loaded[0]


_set_id, _set_image, _set_prompt, _set_targets, _set_kind, _set_meta, _set_source, _set_weight = (
    getattr(Sample, one.name).__set__ for one in fields(Sample)
)


def _with_paths(image: str | tuple[ImageRef, ...]) -> ImageRef | tuple[ImageRef, ...]:
    """Return an image, or several, with files as paths: of a text the digest would be that of the name."""
    if isinstance(image, str):
        return Path(image)
    if not any(isinstance(one, str) for one in image):
        return image  # itself, which samples may share
    return tuple([Path(one) if isinstance(one, str) else one for one in image])


def _says_nothing(identifier: str, text: object) -> DataError:
    return DataError(f"sample {identifier!r} has the text {text!r}, but prompt and targets must say something")


def image_key(image: ImageRef) -> str:
    """Return the name of an image: its place where it has one, the digest of its bytes or pixels where not.

    Raises:
        DataError: it has neither.
    """
    if isinstance(image, Path):
        return f"path:{image.absolute()}"
    if isinstance(image, StoredImage):
        return image.key
    return f"sha256:{image_digest(image)}"


def load_image(image: ImageRef) -> Any:
    """Return what an image reader takes for `image`: itself, or what is read from its archive.

    Raises:
        DataError: the archive cannot be read, or the image is missing.
    """
    return image.read() if isinstance(image, StoredImage) else image


def image_name(image: ImageRef) -> str:
    """Return what a person would call an image: its file, its member of an archive, or its kind."""
    if isinstance(image, StoredImage):
        return image.key.partition(":")[2]
    return str(image) if isinstance(image, Path) else f"{type(image).__name__} in memory"


def image_digest(image: ImageRef) -> str:
    """Return the sha256 (hex) of an image's encoded bytes, or of its pixels with their shape and type.

    Of a Pillow image they are those that are seen: what it holds is another picture with another mode or palette.

    Raises:
        DataError: the file cannot be read, or the object has no pixels in main memory.
        ImageError: a Pillow image cannot be decoded.
    """
    image = load_image(image)
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, Path):
        try:
            return hashlib.sha256(image.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"image {image} cannot be read ({error.strerror}); check the path") from error
    if isinstance(image, Image.Image):
        image = _seen(image)
    try:
        pixels = np.asarray(image)
    except (TypeError, ValueError) as error:
        raise DataError(f"an image of type {type(image).__name__} has no pixels in main memory ({error})") from error
    if pixels.dtype == object:
        raise DataError(f"an image of type {type(image).__name__} has no pixels; give a path, bytes or an array")
    digest = hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def _seen(image: Image.Image) -> np.ndarray:
    """Return the pixels [H, W, 3] that a Pillow image stands for, right side up."""
    from tove_core.hub.images import read_image  # which needs torch, and most images do not need this

    return read_image(image).permute(1, 2, 0).numpy()


def distinct_images(samples: Sequence[Sample]) -> tuple[list[ImageRef], list[tuple[int, ...]]]:
    """Return the M different images, in order of first use, and for each sample which of them are its own."""
    rows: dict[str, int] = {}
    images: list[ImageRef] = []
    alone: list[tuple[int]] = []  # of samples with one image, which share what is the same: they may be millions
    seen: dict[int, int] = {}  # samples that share an image mostly share the object, which needs no name

    def row_of(sample: Sample, place: int, image: ImageRef) -> int:
        row = seen.get(id(image))
        if row is None:
            key = image.key if isinstance(image, StoredImage) else sample.image_keys[place]
            row = seen[id(image)] = rows.setdefault(key, len(images))
            if row == len(images):
                images.append(image)
                alone.append((row,))
        return row

    of_sample: list[tuple[int, ...]] = []
    with without_collector():
        for sample in samples:
            image = sample.image
            if isinstance(image, tuple):
                of_sample.append(tuple([row_of(sample, place, one) for place, one in enumerate(image)]))
            else:
                row = seen.get(id(image))
                of_sample.append(alone[row_of(sample, 0, image) if row is None else row])
    return images, of_sample
