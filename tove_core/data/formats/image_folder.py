"""A folder of images, each with its caption in a text file of its name beside it, or without any."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import read_text, required_path, writable
from tove_core.data.images import FoundImages, open_images
from tove_core.data.malformed import one_row
from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.spec import Frozen


class FolderOptions(Frozen):
    """Options of the reader "folder"."""

    image: tuple[str, ...] = Field(
        default=("jpg", "jpeg", "png", "webp"), description="endings of images, in either case"
    )
    text: str = Field(default="txt", description="ending of the files of captions")


def read(config: SourceConfig, options: FolderOptions) -> list[Sample]:
    """Read one sample per image below `path`, in the order of their names, which are the ids: "cats/1.jpg".

    `cats/1.txt` holds the captions of `cats/1.jpg`, one in each line that is not empty. An image without such a file
    has none: it can be described, and encoded into a cache. Files and folders whose name begins with a dot are left
    alone.

    Raises:
        DataError: `path` is no folder, holds no image, a file of captions is empty or cannot be read, or two images
            would share one.
    """
    folder = required_path(config)
    if config.images is not None:
        raise DataError("data.images was given, but reader 'folder' finds the images below data.path; leave it out")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file, but reader 'folder' wants a folder of images; give that")
    images, texts = _listed(folder, options)
    if not images:
        endings = ", ".join(f".{ending}" for ending in options.image)
        raise DataError(
            f"{folder} has no image ({endings}); give another folder, or their ending in data.options.image"
        )
    _refuse_shared(images, texts, options, folder)
    alone = sorted(texts.keys() - {_stem(name) for name in images})
    if alone:
        warnings.warn(
            f"{len(alone)} files of captions below {folder} have no image beside them (first: {texts[alone[0]]})",
            stacklevel=2,
        )
    found, samples = FoundImages(open_images(folder)), []
    for name in images:
        with one_row:
            beside = texts.get(_stem(name))
            targets = () if beside is None else _captions(folder / beside)
            samples.append(Sample(id=name, image=found[name], targets=targets))
    return samples


def _listed(folder: Path, options: FolderOptions) -> tuple[list[str], dict[str, str]]:
    """Return the images' names in order, and the files of captions by their name without its ending."""
    endings = {f".{ending.lower()}" for ending in options.image}
    images: list[str] = []
    texts: dict[str, str] = {}
    been: set[str] = set()  # links to folders are followed, and one may lead back
    for place, inside, names in os.walk(folder, followlinks=True):
        been.add(os.path.realpath(place))
        inside[:] = [
            name for name in inside if name[0] != "." and os.path.realpath(f"{place}{os.sep}{name}") not in been
        ]
        within = PurePosixPath(Path(place).relative_to(folder).as_posix())
        for name in names:
            own, ending = str(within / name), PurePosixPath(name).suffix
            if name.startswith("."):
                continue
            if ending.lower() in endings:
                images.append(writable(own, "name", folder))  # a name that is not UTF-8 could not be an id
            elif ending == f".{options.text}":
                texts[_stem(own)] = own
    return sorted(images), texts


def _refuse_shared(images: list[str], texts: dict[str, str], options: FolderOptions, folder: Path) -> None:
    counts = Counter(map(_stem, images))
    shared = next((stem for stem in counts if counts[stem] > 1 and stem in texts), None)
    if shared is not None:
        both = " and ".join(name for name in images if _stem(name) == shared)
        raise DataError(f"{both} in {folder} would share {texts[shared]}; rename one of them")


def _captions(path: Path) -> tuple[str, ...]:
    # At line feeds alone, which all kinds of line ends have become: captions may hold U+2028 and others.
    lines = [line.strip() for line in read_text(path).split("\n")]
    captions = tuple(line for line in lines if line)
    if not captions:
        raise DataError(f"{path} is empty, but a caption is wanted; write one, or remove the file")
    return captions


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
