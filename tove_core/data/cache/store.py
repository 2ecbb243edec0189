"""One feature of a cache: a folder with what it was computed from and its shards, indexed by image."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tove_core.data.cache.codec import EXACTNESS, SCALE, VALUES, CacheDtype, row_bytes, row_checks, torch_dtype, unpack
from tove_core.data.cache.index import DigestIndex
from tove_core.data.cache.shards import (
    CHECK,
    FORMAT,
    KEYS,
    KEYS_CHECK,
    SUFFIX,
    Shard,
    damaged,
    read_shard,
    sync_folder,
    unfinished,
    write_shard,
)
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.errors import DataError

DESCRIPTION = "feature.json"


class DamagedDescription(DataError):
    """What a feature's folder says of itself makes no sense."""


class FeatureStore:
    """A feature of many images on disk, float32, float16 or float8.

    The index is made of the shards' headers and keys whenever it is asked for; there is no file of it that could be
    out of date.

    Args:
        folder: holds `feature.json`.
        fingerprint: what the feature was computed from.
        dtype: what is kept.
    """

    def __init__(self, folder: Path, fingerprint: FeatureFingerprint, dtype: CacheDtype) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.dtype: CacheDtype = dtype
        self._mapped: dict[int, dict[str, Tensor]] = {}
        self._checks: dict[int, np.ndarray] = {}
        self._left_out: frozenset[Path] = frozenset()

    @classmethod
    def create(cls, folder: Path, fingerprint: FeatureFingerprint, dtype: CacheDtype) -> FeatureStore:
        """Make the folder of a feature that is not there yet.

        Raises:
            DataError: it cannot be written.
        """
        given = {"format": FORMAT, "dtype": dtype, **fingerprint.as_json()}
        temporary = unfinished(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(json.dumps(given, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / DESCRIPTION)
            sync_folder(folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be written ({error.strerror}); choose another place") from error
        return cls(folder, fingerprint, dtype)

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Read what a feature's folder says of itself.

        Raises:
            DataError: the description cannot be read.
            DamagedDescription: it is damaged or of another format.
        """
        cure = f"remove {folder} with 'tove cache verify --remove' and build the cache again"
        try:
            content = (folder / DESCRIPTION).read_bytes()
        except OSError as error:
            raise DataError(
                f"{folder / DESCRIPTION} cannot be read ({(error.strerror or str(error)).lower()}); check its "
                "permissions and its disk"
            ) from error
        try:
            given = json.loads(content)
            format_, dtype = given.get("format"), given.get("dtype")
            fingerprint = FeatureFingerprint.from_json(given) if format_ == FORMAT and dtype in EXACTNESS else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedDescription(f"{folder / DESCRIPTION} is damaged ({error}); {cure}") from error
        if fingerprint is None:
            raise DamagedDescription(
                f"{folder} is no feature of format {FORMAT!r} but of {format_!r}, {dtype!r}; {cure}"
            )
        return cls(folder, fingerprint, dtype)

    @property
    def name(self) -> str:
        """The feature: "clip", or an expert's key."""
        return self.fingerprint.name

    def files(self) -> list[Path]:
        """Return the shards' files in a fixed order, without opening them; none where the folder is yet to be made."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(
            path for path in found if path.suffix == SUFFIX and path.name[0] != "." and path not in self._left_out
        )

    def leave_out(self, paths: Collection[Path]) -> None:
        """Go on as if some shards were not there: damaged ones, where the others are to be looked at all the same."""
        self._left_out = frozenset(paths)
        for name in ("_read", "shards", "index"):
            self.__dict__.pop(name, None)

    def read_shard(self, path: Path) -> Shard:
        """Read the header of one shard.

        Raises:
            DataError: it is damaged or holds another shape.
        """
        return self._checked(read_shard(path))

    @cached_property
    def _read(self) -> tuple[list[Shard], np.ndarray]:
        pairs = [(shard, shard.keys()) for shard in map(self.read_shard, self.files())]
        # By their first image: features that were computed together then agree in their order, see `FeatureCache`.
        pairs.sort(key=lambda pair: pair[1][:1].tobytes())
        return [shard for shard, _ in pairs], np.concatenate(
            [np.empty((0, 32), np.uint8), *(keys for _, keys in pairs)]
        )

    @cached_property
    def shards(self) -> list[Shard]:
        """The shards, their headers checked, in the order of rows.

        Raises:
            DataError: one is damaged or holds another shape.
        """
        return self._read[0]

    @property
    def keys(self) -> np.ndarray:
        """The sha256 of each row's image, uint8 [n, 32]."""
        return self._read[1]

    @cached_property
    def index(self) -> DigestIndex:
        """Rows by the sha256 of the image."""
        return DigestIndex(self.keys)

    def release(self) -> None:
        """Forget keys and index, which reading rows does not need; they are read again when asked for."""
        self.shards  # noqa: B018  # kept: rows are counted in their order
        for name in ("_read", "index"):
            self.__dict__.pop(name, None)

    def __len__(self) -> int:
        """Return the number of rows; images that two writers computed at once count twice."""
        return sum(map(len, self.shards))

    @property
    def nbytes(self) -> int:
        """Size of the shards in bytes."""
        return sum(path.stat().st_size for path in self.files())

    def append(self, digests: Sequence[bytes], packed: Mapping[str, Tensor]) -> Shard:
        """Write one shard: what `pack` gave for n images, and their digests.

        Raises:
            DataError: it cannot be written.
        """
        keys = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
        packed = {name: part.contiguous() for name, part in packed.items()}
        check = torch.frombuffer(bytearray(b"".join(row_checks(packed))), dtype=torch.uint8).view(-1, 4)
        return write_shard(self.folder, {KEYS: keys, CHECK: check, **packed}, f"feature {self.name!r}")

    def row_bytes(self) -> int:
        """Return what one image takes."""
        return row_bytes(self.fingerprint.shape, self.dtype)

    def gather(self, rows: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Return the feature of some rows, [len(rows), N, C] float32 on a device; nothing but them is read.

        The first time that a row is read, its bytes are held to its checksum.

        Raises:
            DataError: a shard is damaged, or has been changed or removed.
        """
        shape = self.fingerprint.shape
        # Widened as it is copied where it stays; to another device it goes as small as it is kept.
        here = torch.device(device).type == "cpu"
        kept = {VALUES: torch.empty(len(rows), *shape, dtype=torch.float32 if here else torch_dtype(self.dtype))}
        if self.dtype == "float8":
            kept[SCALE] = torch.empty(len(rows), shape[0])
        for place, (source, inside) in enumerate(self._found(rows)):
            for name, into in kept.items():
                into[place] = source[name][inside]
        return unpack(kept, device)

    def require_sound(self, rows: np.ndarray) -> None:
        """Hold some rows to their checksums, where they were not before.

        Raises:
            DataError: as of `gather`.
        """
        for _ in self._found(rows[~self._sound[rows]]):
            pass

    def _found(self, rows: np.ndarray) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Yield the mapped shard of each row, and its place there, once what is kept has been found right."""
        numbers = np.searchsorted(self._ends, rows, side="right")
        for number, row in zip(numbers.tolist(), rows.tolist(), strict=True):
            source = self._mapped.get(number) or self._map(number)
            inside = row - int(self._ends[number - 1]) if number else row
            if not self._sound[row]:
                self._hold_to_checksum(source, number, inside)
                self._sound[row] = True
            yield source, inside

    def _hold_to_checksum(self, source: Mapping[str, Tensor], number: int, inside: int) -> None:
        written = self._checks.get(number)
        if written is None:  # a shard without checksums was held to its sha256 as a whole
            return
        (found,) = row_checks({name: part[inside : inside + 1] for name, part in source.items()})
        if written[inside].tobytes() != found:
            raise damaged(self.shards[number].path, f"row {inside} is not what was written")

    @cached_property
    def _sound(self) -> np.ndarray:
        """Which rows were read before and were what was written, bool [n]."""
        return np.zeros(len(self), bool)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)

    def _map(self, number: int) -> dict[str, Tensor]:
        shard = self.shards[number]
        if CHECK not in shard.entries:  # written before rows had checksums: only the whole file can be held to its name
            shard.require_intact()
        self._mapped[number] = shard.tensors()
        if CHECK in shard.entries:
            self._checks[number] = self._mapped[number].pop(CHECK).numpy()
        return self._mapped[number]

    def _checked(self, shard: Shard) -> Shard:
        wanted: dict[str, Any] = {VALUES: (torch_dtype(self.dtype), (len(shard), *self.fingerprint.shape))}
        if self.dtype == "float8":
            wanted[SCALE] = (torch.float32, (len(shard), self.fingerprint.shape[0]))
        wanted[KEYS] = (torch.uint8, (len(shard), 32))
        if KEYS_CHECK in shard.entries:
            wanted[KEYS_CHECK] = (torch.uint8, (4,))
        if CHECK in shard.entries:
            wanted[CHECK] = (torch.uint8, (len(shard), 4))
        if {name: (entry.dtype, entry.shape) for name, entry in shard.entries.items()} != wanted:
            raise damaged(shard.path, f"its tensors are not those of feature {self.name!r}")
        return shard
