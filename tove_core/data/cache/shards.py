"""One shard of a cache: a safetensors file named after its own sha256, written whole or not at all, read by mmap."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tove_core.errors import DataError

FORMAT = "tove-cache-1"
SUFFIX = ".safetensors"
UNFINISHED = ".tmp"
KEYS = "keys"
KEYS_CHECK = "keys_check"
"""The crc32 of all keys, 4 bytes; older shards have none."""
CHECK = "check"
"""The crc32 of what each row holds, [n, 4]; older shards have none."""
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
}
_LARGEST_HEADER = 1 << 20
"""Bytes; ours have some hundreds. A flipped bit must not make us read a whole disk as a header."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor of a shard lies: bytes `begin` to `end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Shard:
    """A shard as its header describes it.

    Attributes:
        path: the file; its name is its sha256.
        size: of the file, in bytes.
        entries: its tensors by name; all but `keys_check` have the same first dimension, the rows.
    """

    path: Path
    size: int
    entries: Mapping[str, Entry]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.entries[KEYS].shape[0]

    def keys(self) -> np.ndarray:
        """Return the sha256 of each row's image, uint8 [n, 32], after holding them to their checksum.

        Raises:
            DataError: the file cannot be read, or the keys are not what was written.
        """
        try:
            with self.path.open("rb") as file:
                keys, check = (_read(file, self.entries.get(name)) for name in (KEYS, KEYS_CHECK))
            found = np.frombuffer(keys, np.uint8).reshape(-1, 32)
        except (OSError, ValueError) as error:
            raise damaged(self.path, _reason(error)) from error
        if len(found) != len(self) or (check and check != crc32(keys)):
            raise damaged(self.path, "its keys are not what was written")
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return views of the mapped file, without the keys: nothing is read before it is used. Never write to them.

        torch maps privately and keeps no file open, so that thousands of shards need no thousands of file descriptors.

        Raises:
            DataError: the file has changed since its header was read, or cannot be mapped.
        """
        try:
            if self.path.stat().st_size != self.size:
                raise damaged(self.path, f"it had {self.size:,} bytes before")
            whole = torch.from_file(str(self.path), shared=False, size=self.size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            raise damaged(self.path, str(error).splitlines()[0]) from error
        return {
            name: whole[entry.begin : entry.end].view(entry.dtype).view(entry.shape)
            for name, entry in self.entries.items()
            if name not in (KEYS, KEYS_CHECK)
        }

    def is_intact(self) -> bool:
        """Read the whole file and tell whether it has the sha256 it is named after."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.path.stem
        except OSError:
            return False

    def require_intact(self) -> Shard:
        """Return the shard after reading the whole file.

        Raises:
            DataError: it has another sha256 than it is named after.
        """
        if not self.is_intact():
            raise damaged(self.path, "its sha256 is not the one it is named after")
        return self


def write_shard(folder: Path, tensors: Mapping[str, Tensor], what: str) -> Shard:
    """Write tensors [n, ...], among them `keys` uint8 [n, 32], as one shard, and return it.

    The bytes are on the disk before the file gets its name, so that a shard is complete wherever it can be seen. Two
    writers can never meet: equal names are equal contents.

    Args:
        folder: exists.
        what: named in the error ("feature 'clip'").

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    temporary = unfinished(folder)
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    kept[KEYS_CHECK] = torch.frombuffer(bytearray(crc32(kept[KEYS].numpy().data)), dtype=torch.uint8)
    try:
        save_file(kept, temporary, {"format": FORMAT})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = temporary.replace(folder / f"{digest}{SUFFIX}")
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"a shard of {what} cannot be written to {folder} ({_reason(error)}); what was written before is kept, "
            "so make room or choose another place and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return read_shard(path)


def unfinished(folder: Path) -> Path:
    """Return a name for a file that is being written, .HOST-PID-RANDOM.tmp: others see whether its writer lives."""
    return folder / f".{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}{UNFINISHED}"


def sync_folder(folder: Path) -> None:
    """Let the folder's own entries survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_shard(path: Path) -> Shard:
    """Read a shard's header and hold it to the file's length; the contents are not read.

    Raises:
        DataError: the file is truncated, or not a shard of this format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = file.read(length) if 2 <= length <= min(size - 8, _LARGEST_HEADER) else b""
    except OSError as error:
        raise damaged(path, _reason(error)) from error
    if not content:
        raise damaged(path, f"its header claims {length:,} of {size:,} bytes")
    try:
        header = json.loads(content)
        given = header.pop("__metadata__")["format"]
        entries = {name: _entry(entry, 8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"its header cannot be read: {error}") from error
    if given != FORMAT:
        raise DataError(f"{path} is of format {given!r}, but {FORMAT!r} is wanted; build the cache again")
    if not entries or max(entry.end for entry in entries.values()) != size:
        raise damaged(path, f"it has {size:,} bytes, other than its header says")
    if KEYS not in entries or len({entry.shape[0] for name, entry in entries.items() if name != KEYS_CHECK}) > 1:
        raise damaged(path, "its tensors differ in their rows")
    return Shard(path, size, entries)


def crc32(*contents: bytes | memoryview) -> bytes:
    """Return the crc32 of contiguous bytes that follow each other, 4 bytes.

    It sees every one or two flipped bits, and misses other damage once in 4 billion times; it is several times as fast
    as a sha256.
    """
    found = 0
    for content in contents:
        found = zlib.crc32(content, found)
    return found.to_bytes(4, "little")


def damaged(path: Path, reason: str) -> DataError:
    """Return the error that a damaged file ends in."""
    return DataError(
        f"{path} is damaged ({reason}); remove it with 'tove cache verify --remove', then 'tove cache build' computes "
        "what it held again"
    )


def _read(file: BinaryIO, entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    file.seek(entry.begin)
    return file.read(entry.end - entry.begin)


def _entry(described: Mapping[str, object], data: int) -> Entry:
    dtype = DTYPES[described["dtype"]]  # type: ignore[index]  # a KeyError is caught
    shape = tuple(int(side) for side in described["shape"])  # type: ignore[attr-defined]
    begin, end = (data + int(at) for at in described["data_offsets"])  # type: ignore[attr-defined]
    if end - begin != math.prod(shape) * dtype.itemsize or begin < data or not shape:
        raise ValueError(f"shape {list(shape)} does not fit its bytes")
    return Entry(dtype, shape, begin, end)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
