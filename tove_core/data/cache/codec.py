"""How features are kept: float32 as they are, float16, or float8 with a scale per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from tove_core.data.cache.shards import crc32
from tove_core.errors import DataError

CacheDtype = Literal["float32", "float16", "float8"]
"""From the most exact to the smallest: 4, 2 and about 1 byte per channel."""

EXACTNESS: tuple[CacheDtype, ...] = get_args(CacheDtype)
VALUES, SCALE = "f", "scale"
_TORCH = {"float32": torch.float32, "float16": torch.float16, "float8": torch.float8_e4m3fn}
_LARGEST_FLOAT8 = torch.finfo(torch.float8_e4m3fn).max
_KEY_BYTES = 32 + 4
"""The sha256 of the image, and the crc32 of what is kept of it."""


def pack(feature: Tensor, dtype: CacheDtype, name: str, images: Sequence[str]) -> dict[str, Tensor]:
    """Return what a shard keeps of a feature [B, N, C]: values `f`, and for float8 a `scale` [B, N].

    Args:
        feature: of any floating dtype, on any device.
        dtype: what is kept.
        name: of the feature, for errors.
        images: names of the B images, for errors.

    Raises:
        DataError: a value is not finite, or too large for float16; feature, image and cure are named.
    """
    feature = feature.detach().float()
    if (bad := _first_bad(feature)) is not None:
        raise DataError(
            f"feature {name!r} of image {images[bad]} is not finite; check that image, and weights and precision of "
            f"{name!r}"
        )
    if dtype == "float8":
        scale = feature.abs().amax(dim=-1).div(_LARGEST_FLOAT8)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        # Rounding of the division may lead a hair beyond the largest value, which float8 has no infinity for.
        values = (feature / scale[..., None]).clamp(-_LARGEST_FLOAT8, _LARGEST_FLOAT8)
        return {VALUES: values.to(_TORCH[dtype]).cpu(), SCALE: scale.cpu()}
    values = feature.to(_TORCH[dtype])
    if (bad := _first_bad(values)) is not None:
        raise DataError(
            f"feature {name!r} reaches {feature[bad].abs().max().item():.4g} at image {images[bad]}, too much for "
            f"float16; keep it as it is with --dtype {name}=float32"
        )
    return {VALUES: values.cpu()}


def unpack(kept: Mapping[str, Tensor], device: torch.device | str) -> Tensor:
    """Return the feature [B, N, C] float32 on a device; what is copied there is as small as what is kept."""
    values = kept[VALUES].to(device).float()
    return values * kept[SCALE].to(device)[..., None] if SCALE in kept else values


def row_checks(kept: Mapping[str, Tensor]) -> list[bytes]:
    """Return the crc32 of what is kept of each image, 4 bytes: of its values [N, C], then of its scales [N].

    Whoever reads some rows can hold them to it without reading the rest of the file.
    """
    parts = [kept[name].flatten(1).view(torch.uint8).numpy() for name in (VALUES, SCALE) if name in kept]
    return [crc32(*(one.data for one in row)) for row in zip(*parts, strict=True)]


def row_bytes(shape: tuple[int, int], dtype: CacheDtype) -> int:
    """Return what one image's feature of N tokens and C channels takes, its key and checksum included."""
    tokens, channels = shape
    scale = 4 * tokens if dtype == "float8" else 0
    return tokens * channels * _TORCH[dtype].itemsize + scale + _KEY_BYTES


def _first_bad(values: Tensor) -> int | None:
    """Return the first image whose values are not all finite."""
    if values.isfinite().all():
        return None
    return int((~values.isfinite()).flatten(1).any(dim=1).nonzero()[0])


def torch_dtype(dtype: CacheDtype) -> torch.dtype:
    """Return what the values are kept in."""
    return _TORCH[dtype]
