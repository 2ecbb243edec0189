"""COCO captions (cocodataset.org, "captions_val2017.json") and NoCaps (nocaps.org), which shares its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tove_core.config import SourceConfig
from tove_core.data.files import read_json, required_key, required_path
from tove_core.data.images import find_all, open_images
from tove_core.data.sample import Sample
from tove_core.errors import DataError


def read(config: SourceConfig) -> list[Sample]:
    """Read one sample per image, with all its captions as targets in file order and the image's id as id.

    `path` is the captions file; the images lie in `images` (folder or tar archive), else in the folder `images`
    beside the file, else beside it. An image without captions becomes a sample without targets.

    Raises:
        DataError: the file is malformed, or a caption is of no listed image.
    """
    path = required_path(config)
    return _samples(config, path, read_json(path))


def read_nocaps(config: SourceConfig) -> list[Sample]:
    """Read NoCaps: as COCO captions, with the image's domain as kind; the test file's images have no captions.

    Raises:
        DataError: the file is malformed, or a caption is of no listed image.
    """
    path = required_path(config)
    content = read_json(path)
    if isinstance(content, dict):
        content = {"annotations": [], **content}
    return _samples(config, path, content, kind="domain")


def _samples(config: SourceConfig, path: Path, content: Any, kind: str | None = None) -> list[Sample]:
    records = [
        _image(record, f"{path} image {number}") for number, record in enumerate(_records(content, "images", path))
    ]
    captions = _captions(content, path, {str(record["id"]) for record in records})
    beside = path.parent / "images"
    source = open_images(config.images or (beside if beside.is_dir() else path.parent))
    images = find_all(source, (record["file_name"] for record in records))
    return [
        Sample(
            id=str(record["id"]),
            image=images[record["file_name"]],
            targets=tuple(captions[str(record["id"])]),
            kind=str(record.get(kind, "")) if kind else "",
            meta={key: value for key, value in record.items() if key != "id"},
        )
        for record in records
    ]


def _records(content: Any, key: str, path: Path) -> list[Any]:
    records = required_key(content, key, str(path))
    if not isinstance(records, list):
        raise DataError(f"{path} has {key!r} of type {type(records).__name__}, but a list is wanted; repair it")
    return records


def _image(record: Any, where: str) -> Mapping[str, Any]:
    required_key(record, "id", where)
    name = required_key(record, "file_name", where)
    if not isinstance(name, str) or not name:
        raise DataError(f"{where} has the file_name {name!r}, but a file name is wanted; repair it")
    return record


def _captions(content: Any, path: Path, known: set[str]) -> dict[str, list[str]]:
    """Return the captions of every known image."""
    captions: dict[str, list[str]] = {image: [] for image in known}
    strangers = []
    for number, record in enumerate(_records(content, "annotations", path)):
        where = f"{path} annotation {number}"
        image = str(required_key(record, "image_id", where))
        caption = required_key(record, "caption", where)
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{where} has the caption {caption!r}, but a text is wanted; repair it or take it out")
        if image in known:
            captions[image].append(caption.strip())
        else:
            strangers.append(image)
    if strangers:
        first = ", ".join(dict.fromkeys(strangers[:3]))
        raise DataError(
            f"{path} has {len(strangers)} captions of images it does not list (first image ids: {first}); "
            "list the images or take the captions out"
        )
    return captions
