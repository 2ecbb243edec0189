"""COCO captions (cocodataset.org, "captions_val2017.json") and NoCaps (nocaps.org), which shares its format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tove_core.config import SourceConfig
from tove_core.data.files import optional_text, required_id, required_path, required_text
from tove_core.data.images import FoundImages, open_images
from tove_core.data.json_list import read_members
from tove_core.data.malformed import one_row
from tove_core.data.sample import Sample
from tove_core.errors import DataError


def read(config: SourceConfig) -> list[Sample]:
    """Read one sample per image, with all its captions as targets in file order and the image's id as id.

    `path` is the captions file; the images lie in `images` (folder or tar archive), else in the folder `images`
    beside the file, else beside it. An image without captions becomes a sample without targets.

    Raises:
        DataError: the file is malformed, or a caption is of no listed image.
    """
    return _samples(config)


def read_nocaps(config: SourceConfig) -> list[Sample]:
    """Read NoCaps: as COCO captions, with the image's domain as kind; the test file's images have no captions.

    Raises:
        DataError: the file is malformed, or a caption is of no listed image.
    """
    return _samples(config, optional=["annotations"], kind="domain")


def _samples(config: SourceConfig, optional: Collection[str] = (), kind: str | None = None) -> list[Sample]:
    path = required_path(config)
    records: list[tuple[str, str, str, dict[str, Any]]] = []
    captions: dict[str, list[str]] = {}
    for key, number, record in read_members(path, ["images", "annotations"], optional):
        with one_row:
            if key == "images":
                records.append(_image(record, f"{path} image {number}", kind))
            elif key == "annotations":
                where = f"{path} annotation {number}"
                image, caption = required_id(record, "image_id", where), required_text(record, "caption", where)
                captions.setdefault(image, []).append(caption)
    with one_row:
        _refuse_strangers(captions, {identifier for identifier, _, _, _ in records}, path)
    beside = path.parent / "images"
    images = FoundImages(open_images(config.images or (beside if beside.is_dir() else path.parent)))
    return [
        Sample(identifier, images[name], None, tuple(captions.get(identifier, ())), domain, meta)
        for identifier, name, domain, meta in records
    ]


def _image(record: Any, where: str, kind: str | None) -> tuple[str, str, str, dict[str, Any]]:
    """Return id, file, kind and meta of an image."""
    identifier, name = required_id(record, "id", where), required_text(record, "file_name", where)
    domain = optional_text(record, kind, where) if kind else ""
    return identifier, name, domain, {key: value for key, value in record.items() if key != "id"}


def _refuse_strangers(captions: Mapping[str, list[str]], known: Collection[str], path: Path) -> None:
    strangers = [image for image, texts in captions.items() for _ in texts if image not in known]
    if strangers:
        first = ", ".join(list(dict.fromkeys(strangers))[:3])
        raise DataError(
            f"{path} has {len(strangers)} captions of images it does not list (first image ids: {first:.100}); "
            "list the images or take the captions out"
        )
