"""A table of what the frozen networks say about each distinct image, so that training runs them once per image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tove_core.data.fingerprint import canonical
from tove_core.errors import DataError

Dtype = Literal["float16", "float32"]
Encode = Callable[[Sequence[Any]], Mapping[str, Tensor]]
"""Gives for B images each feature, [B, N, C]: "clip" and one per expert, by its key."""

DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


class Features(Protocol):
    """Features of M images, wherever they are: in a `FeatureTable`, or in a cache on disk."""

    def __len__(self) -> int:
        """Return M."""
        ...

    def gather(
        self,
        indices: Sequence[int] | Tensor,
        device: torch.device | str | None = None,
        names: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return the features of some images, [len(indices), N, C] float32, on a device; all, or those named."""
        ...

    def require_sound(self, indices: Sequence[int]) -> None:
        """Raise DataError where `gather` would, of these images."""
        ...


class FeatureTable:
    """Features of M distinct images, [M, N, C] each, in main memory or on one device.

    Args:
        features: by name ("clip", an expert's key), all with the same M, of the same dtype.
        fingerprint: what the features were computed from (towers, weights, view, images): JSON values.

    Raises:
        DataError: there are no features, or they differ in M, rank or dtype.
    """

    def __init__(self, features: Mapping[str, Tensor], fingerprint: Mapping[str, Any]) -> None:
        if not features:
            raise DataError("a feature table without features was asked for, but it needs at least one")
        for name, feature in features.items():
            if feature.ndim != 3 or feature.dtype not in DTYPES.values():
                raise DataError(f"feature {name!r} is {_shape(feature)}, but [M, N, C] of float16 or float32 is wanted")
        if len({(feature.shape[0], feature.dtype) for feature in features.values()}) > 1:
            shapes = ", ".join(f"{name} {_shape(feature)}" for name, feature in features.items())
            raise DataError(f"features differ in their number of images or dtype ({shapes}); build them together")
        self.features = dict(features)
        self.fingerprint = canonical(fingerprint)

    def __len__(self) -> int:
        """Return M, the number of images."""
        return next(iter(self.features.values())).shape[0]

    def gather(
        self,
        indices: Sequence[int] | Tensor,
        device: torch.device | str | None = None,
        names: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return the features of some images, [len(indices), N, C] float32; on the table's device if none is named.

        Args:
            indices: of the images.
            device: where to.
            names: the features to return; None: all.

        Raises:
            DataError: an index is not 0 to M - 1.
        """
        rows = checked_rows(indices, len(self))
        asked = {name: f for name, f in self.features.items() if names is None or name in names}
        picked = {name: f.index_select(0, rows.to(f.device)) for name, f in asked.items()}
        return {name: f.to(device or f.device).float() for name, f in picked.items()}

    def require_sound(self, indices: Sequence[int]) -> None:
        """Raise DataError where an index is not 0 to M - 1: nothing else can be wrong with what is in memory."""
        checked_rows(indices, len(self))

    @classmethod
    def build(
        cls,
        encode: Encode,
        images: Sequence[Any],
        fingerprint: Mapping[str, Any],
        *,
        batch_size: int = 32,
        dtype: Dtype = "float16",
        progress: Callable[[int, int], None] | None = None,
    ) -> FeatureTable:
        """Compute the features of M images, some at a time, without gradients.

        Args:
            encode: called with up to `batch_size` of the images.
            images: the distinct images, as `encode` takes them.
            fingerprint: see the class.
            batch_size: images per call.
            dtype: what is kept; float16 halves the memory at a relative error of about 0.0002.
            progress: called with images done and M after each batch.

        Raises:
            DataError: there are no images; or a feature changes shape, is not finite, or is too large for `dtype`.
        """
        if dtype not in DTYPES:
            raise DataError(f"features of dtype {dtype!r} were asked for; choose one of {', '.join(DTYPES)}")
        if not images or batch_size < 1:
            raise DataError(
                f"features of {len(images)} images in batches of {batch_size} were asked for; both must be positive"
            )
        table: dict[str, Tensor] = {}
        for first in range(0, len(images), batch_size):
            chunk = images[first : first + batch_size]
            with torch.no_grad():
                encoded = encode(chunk)
            if first == 0:
                table = {n: torch.empty(len(images), *f.shape[1:], dtype=DTYPES[dtype]) for n, f in encoded.items()}
            _check_shapes(encoded, table, first, len(chunk))
            for name, feature in encoded.items():
                table[name][first : first + len(chunk)] = _narrow(feature, DTYPES[dtype], name, first)
            if progress is not None:
                progress(first + len(chunk), len(images))
        return cls(table, fingerprint)


def checked_rows(indices: Sequence[int] | Tensor, count: int) -> Tensor:
    """Return indices of `count` images as one flat tensor.

    Raises:
        DataError: an index is not 0 to `count` - 1.
    """
    rows = torch.as_tensor(indices, dtype=torch.long).flatten()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        worst = int(rows.min()) if int(rows.min()) < 0 else int(rows.max())
        raise DataError(f"image {worst} was asked of a table of {count} images; indices are 0 to {count - 1}")
    return rows


def _shape(feature: Tensor) -> str:
    return f"{list(feature.shape)} {str(feature.dtype).removeprefix('torch.')}"


def _check_shapes(encoded: Mapping[str, Tensor], table: Mapping[str, Tensor], first: int, count: int) -> None:
    """Refuse a batch that does not fit the table; `first` and `count` say which images it holds."""
    if encoded.keys() != table.keys():
        names = ", ".join(sorted(encoded.keys() ^ table.keys()))
        raise DataError(
            f"features {names} are given for some images only (changed at image {first}); give all for each"
        )
    for name, feature in encoded.items():
        wanted = [count, *table[name].shape[1:]]
        if feature.ndim != 3 or list(feature.shape) != wanted:
            raise DataError(
                f"feature {name!r} of images {first} to {first + count - 1} is {_shape(feature)}, "
                f"but {wanted if len(wanted) == 3 else '[B, N, C]'} is wanted"
            )


def _narrow(feature: Tensor, dtype: torch.dtype, name: str, first: int) -> Tensor:
    """Return the feature [B, N, C] in `dtype` on the CPU, finite."""
    narrow = feature.detach().to(device="cpu", dtype=dtype)
    bad = (~torch.isfinite(narrow)).flatten(1).any(dim=1).nonzero().flatten()
    if not len(bad):
        return narrow
    image = first + int(bad[0])
    if torch.isfinite(feature).all():
        largest = feature.abs().max().item()
        raise DataError(f"feature {name!r} reaches {largest:.4g} at image {image}, too much for float16; use float32")
    raise DataError(f"feature {name!r} of image {image} is not finite; check the image and the weights")
