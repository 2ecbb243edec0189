"""Where a data set's images lie: a folder, or an uncompressed tar archive that is read in place."""

from __future__ import annotations

import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tove_core.errors import DataError


class StoredImage(ABC):
    """An image that is no file of its own, and is read when it is wanted."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Name of the image, different for different images."""

    @abstractmethod
    def read(self) -> Any:
        """Return what `read_image` takes: encoded bytes, a path or pixels.

        Raises:
            DataError: it cannot be read any more.
        """


@dataclass(frozen=True)
class MissingImage(StoredImage):
    """An image that a data set names and that is not there.

    Attributes:
        name: the name the data set gives.
        place: where it was looked for.
    """

    name: str
    place: str

    @property
    def key(self) -> str:
        """Place and name."""
        return f"missing:{self.place}!{self.name}"

    def read(self) -> Any:
        """Raise DataError."""
        raise DataError(f"image {self.name} is not in {self.place}; add it or take its samples out")


@dataclass(frozen=True)
class PackedImage(StoredImage):
    """One file inside an uncompressed tar archive, read when wanted and never unpacked.

    Attributes:
        archive: the tar file.
        name: the member's name, as POSIX path.
        offset: first byte of the member's content within the archive.
        size: length of the content in bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """Archive and member."""
        return f"tar:{self.archive.absolute()}!{self.name}"

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: the archive is gone or shorter than it was.
        """
        try:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"{self.archive} cannot be read ({error.strerror}); check the path") from error
        if len(content) != self.size:
            raise DataError(
                f"{self.archive} ends before {self.name} does; it has changed or is truncated, copy it again"
            )
        return content


class ImageSource(Protocol):
    """Anything that finds images by the name a data set gives them."""

    def find(self, name: str) -> Path | StoredImage | None:
        """Return the image of that name, or None."""
        ...


class ImageFolder:
    """Images below a folder; an absolute name stands for itself."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def find(self, name: str) -> Path | None:
        """Return the file, or None where there is none."""
        path = self.root / name
        return path if path.is_file() else None


class ImageArchive:
    """Images inside an uncompressed tar archive; its index is read once.

    Raises:
        DataError: the file is not an uncompressed tar archive.
    """

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        try:
            # "r:" and not "r": in a compressed archive a member cannot be reached by its offset.
            with tarfile.open(archive, "r:") as tar:
                self._members = {
                    str(PurePosixPath(member.name)): (member.offset_data, member.size)
                    for member in tar
                    if member.isreg() and not member.issparse()
                }
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{archive} is not a readable uncompressed tar archive ({error}); repack it") from error

    def __str__(self) -> str:
        return str(self.archive)

    def find(self, name: str) -> PackedImage | None:
        """Return the member, or None where there is none."""
        name = str(PurePosixPath(name))
        if name not in self._members:
            return None
        return PackedImage(self.archive, name, *self._members[name])


def open_images(path: Path) -> ImageFolder | ImageArchive:
    """Return the images of a folder or of a tar archive.

    Raises:
        DataError: there is neither.
    """
    if path.is_dir():
        return ImageFolder(path)
    if path.is_file():
        return ImageArchive(path)
    raise DataError(f"{path} does not exist, but the images were expected there as a folder or a tar archive")


def find_all(source: ImageSource, names: Iterable[str]) -> dict[str, Path | StoredImage]:
    """Return the image of every name, a `MissingImage` where there is none."""
    return {name: source.find(name) or MissingImage(name, str(source)) for name in dict.fromkeys(names)}
