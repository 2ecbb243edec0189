"""Where a data set's images lie: a folder, or an uncompressed tar archive that is read in place."""

from __future__ import annotations

import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from tove_core.errors import DataError


class StoredImage(ABC):
    """An image that is not in memory, and is read when it is wanted."""

    __slots__ = ()

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


@dataclass(frozen=True, slots=True)
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


class _Root(NamedTuple):
    """A folder of images, shared by all of them: as it was given, and the beginning of its files' absolute names."""

    folder: Path
    absolute: str


class FileImage(StoredImage):
    """A file below a folder: as good as its `Path`, equal to it and of the same key, in a third of the memory.

    Made for data sets of a million images; a `Path` is made of it when it is read.
    """

    __slots__ = ("_name", "_root")

    def __init__(self, root: _Root, name: str) -> None:
        self._root, self._name = root, name

    @property
    def path(self) -> Path:
        """The file."""
        return self._root.folder / self._name

    @property
    def name(self) -> str:
        """The last part of the file's name."""
        return self.path.name

    @property
    def key(self) -> str:
        """The absolute name, as that of a `Path`."""
        return f"path:{self._root.absolute}{self._name}"

    def read(self) -> Path:
        """Return the file: whoever decodes an image opens it."""
        return self.path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"FileImage({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FileImage):
            return self.path == other.path
        return self.path == other if isinstance(other, Path) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.path)


@dataclass(frozen=True, slots=True)
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


_ASKED = 32
"""So many files of a folder are asked for one by one before it is listed: a listing is far cheaper per file."""


class ImageFolder:
    """Images below a folder; an absolute name stands for itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shared = _Root(root, str(root.absolute() / "_")[:-1])
        self._asked: dict[str, int] = {}
        self._listed: dict[str, set[str]] = {}

    def __str__(self) -> str:
        return str(self.root)

    def find(self, name: str) -> Path | FileImage | None:
        """Return the file, or None where there is none."""
        # Names that begin at the root, or that a `Path` might write otherwise.
        if os.sep != "/" or "//" in name or "./" in name or name[:1] in ("", "/") or name[-1] in "./":
            path = self.root / name
            return path if path.is_file() else None
        inside, _, own = name.rpartition("/")
        listed = self._listed.get(inside) or self._list(inside)
        # A name that was not listed may still be there: where letters' case does not count, or since a moment ago.
        if own in listed or os.path.isfile(f"{self._shared.absolute}{name}"):  # noqa: PTH113  # a third of Path's time
            return FileImage(self._shared, name)
        return None

    def _list(self, inside: str) -> set[str]:
        """Return the names of the files in a folder below, once it was asked for often enough; before, nothing."""
        self._asked[inside] = asked = self._asked.get(inside, 0) + 1
        if asked != _ASKED:
            return set()
        try:
            with os.scandir(f"{self._shared.absolute}{inside}") as entries:
                self._listed[inside] = {entry.name for entry in entries if entry.is_file()}
        except OSError:  # not there, or not to be listed: its files are asked for one by one, as before
            return set()
        return self._listed[inside]


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


class FoundImages(dict[str, Path | StoredImage]):
    """Images by the name a data set gives them, each looked for when it is first asked for and kept.

    Where there is none, a `MissingImage` stands for it.
    """

    def __init__(self, source: ImageSource) -> None:
        super().__init__()
        self.source = source

    def __missing__(self, name: str) -> Path | StoredImage:
        found = self[name] = self.source.find(name) or MissingImage(name, str(self.source))
        return found


def find_all(source: ImageSource, names: Iterable[str]) -> dict[str, Path | StoredImage]:
    """Return the image of every name, a `MissingImage` where there is none."""
    images = FoundImages(source)
    return {name: images[name] for name in names}
