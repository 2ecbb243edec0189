"""Turns whatever a caller calls an image into one RGB tensor."""

from __future__ import annotations

import inspect
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from tove_core.errors import ImageError

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Tensor
"""A path, the bytes of a file, an open binary file (read from its beginning where it can be), a Pillow image, an array
[H, W, 3] or [H, W], or a tensor [3, H, W]."""

_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_ROUNDING = 1e-6
"""How far floats may lie outside 0..1: arithmetic on images in float32 leaves them so."""
_REMOTE = frozenset({"http", "https", "ftp", "s3", "gs", "hf"})
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


def read_image(source: ImageSource) -> Tensor:
    """Return an image as RGB, [3, H, W]: uint8, or float32 in 0..1 where the source holds floats.

    Floats that rounding left a millionth outside are cut to 0..1; others there are refused.

    Orientation tags are applied; transparency is laid over white; 16-bit grey is scaled to 8 bits. Of several frames
    the first is taken.

    Raises:
        ImageError: the source is missing, empty, truncated, too large or of a form that is not listed above.
    """
    if isinstance(source, Tensor):
        return _checked(source.detach(), "a tensor")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "the Pillow image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open(data := bytes(source), f"the image of {len(data)} bytes")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            return _open(path.read_bytes(), str(path))
        except ImageError:
            raise
        except ValueError as error:  # such as a null character, which no name has
            raise ImageError(f"{str(source)!r:.80} is no path ({error}); give a path to an image file") from error
        except OSError as error:
            scheme, _, rest = str(path).partition(":/")  # of `://` a path keeps one slash
            if scheme.lower() in _REMOTE:
                raise ImageError(
                    f"{scheme}://{rest} is an address, and addresses are not fetched; download it and give the file"
                ) from None
            reason = (error.strerror or type(error).__name__).lower()
            raise ImageError(f"{path} cannot be read ({reason}); give a path to an image file") from error
    if callable(getattr(source, "read", None)):
        return _open(_content(source), "the open file")
    raise ImageError(
        f"an image of type {type(source).__name__} was given; give a path, bytes, an open file, a Pillow image, an "
        "array or a tensor"
    )


def _content(file: Any) -> bytes:
    """Return what a binary file holds, from its beginning; one that cannot go back, from where it stands."""
    if inspect.iscoroutinefunction(file.read):
        raise ImageError(f"a {type(file).__name__} was given, which is read by await; give the bytes it holds")
    try:
        if file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek"):
            file.seek(0)
        data = file.read()
    except (OSError, ValueError) as error:  # a closed file raises ValueError
        raise ImageError(f"the open file cannot be read ({error}); open it again, or give its path or bytes") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"the open file gives {type(data).__name__}; open it in binary mode, 'rb'")
    return bytes(data)


def _open(data: bytes, name: str) -> Tensor:
    if not data:
        raise ImageError(f"{name} is empty; give an image file such as PNG or JPEG")
    try:
        image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is larger than Pillow's limit; raise PIL.Image.MAX_IMAGE_PIXELS or shrink") from error
    except Exception as error:  # Pillow's parsers raise many kinds on malformed headers
        raise ImageError(f"{name} is not an image that Pillow can open; give a file such as PNG or JPEG") from error
    with image:
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> Tensor:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"{name} has {size} pixels, above Pillow's limit of {limit}; shrink it or raise that limit")
    try:
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise Pillow would copy the image
            image = ImageOps.exif_transpose(image)
        planes = _to_planes(image, name)
    except ImageError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... on truncated data
        if _is_closed(image):
            raise ImageError(f"{name} is closed; load() it before its file is closed, or give the file") from error
        raise ImageError(f"{name} is truncated or damaged ({error}); fetch or write the file again") from error
    return _checked(torch.from_numpy(planes), name)


def _is_closed(image: Image.Image) -> bool:
    """Tell of an image that cannot be loaded whether it was closed, or its file."""
    file = getattr(image, "fp", None)
    if file is not None:
        return getattr(file, "closed", False)
    try:  # without a file: all its pixels are in memory, or nowhere
        image.load()
    except Exception:
        return True
    return False


def _to_planes(image: Image.Image, name: str) -> np.ndarray:
    """Return [3, H, W], uint8 or float32."""
    if image.mode in _SIXTEEN_BIT:
        return _repeated(_eight_bit(np.asarray(image), name))
    if image.mode == "F":
        return _repeated(np.asarray(image, dtype=np.float32))
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    if image.mode != "RGB":
        image = image.convert("RGB")
    planes = np.empty((3, image.height, image.width), dtype=np.uint8)
    # Band by band: pixels that come interleaved would have to be sorted into planes afterwards, in another copy.
    for plane, band in zip(planes, "RGB", strict=True):
        plane.reshape(-1)[:] = np.frombuffer(image.tobytes("raw", band), dtype=np.uint8)
    return planes


def _repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[None], 3, axis=0)


def _eight_bit(values: np.ndarray, name: str) -> np.ndarray:
    """Scale 0..65535 to 0..255; Pillow's own conversion would clip everything above 255 to white."""
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(f"{name} holds integers outside 0..65535; scale it to 8 or 16 bits first")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_array(array: np.ndarray) -> Tensor:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # files hold numbers of either order
    if array.ndim == 2:
        array = np.broadcast_to(array[:, :, None], (*array.shape, 3))
    if array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(
            f"an array of shape {list(array.shape)} was given as an image; give [H, W, 3] or [H, W], channels last"
        )
    if array.dtype == np.uint16:
        array = _eight_bit(array, "the array")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ImageError(f"an array of {array.dtype} was given as an image; give uint8, uint16, or floats in 0..1")
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    return _checked(torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C")), "an array")


def _checked(tensor: Tensor, name: str) -> Tensor:
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ImageError(f"{name} of shape {list(tensor.shape)} was given as an image; give [3, H, W]")
    if tensor.numel() == 0:
        raise ImageError(f"{name} of shape {list(tensor.shape)} has no pixels; give at least one row and one column")
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise ImageError(f"{name} of {tensor.dtype} was given as an image; give uint8, or floats in 0..1")
    low, high = tensor.aminmax()
    # The comparison is also false for NaN.
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ImageError(f"{name} with values from {low:.9g} to {high:.9g} was given; floats must lie in 0..1")
    return tensor.float() if low >= 0 and high <= 1 else tensor.float().clamp(0, 1)
