"""Caption data in two widespread lists: Karpathy's "dataset_coco.json" and the lists of BLIP."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import (
    checked_texts,
    read_json,
    required_id,
    required_key,
    required_path,
    required_text,
)
from tove_core.data.images import find_all, open_images
from tove_core.data.json_list import read_records
from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.spec import Frozen


class KarpathyOptions(Frozen):
    """Options of the reader "karpathy"."""

    restval: bool = Field(default=True, description="count the images called 'restval' as train, as is customary")


def read_karpathy(config: SourceConfig, options: KarpathyOptions) -> list[Sample]:
    """Read one split of a Karpathy file (COCO, Flickr30k, Flickr8k), one sample per image with all its sentences.

    `split` is train, val or test; "restval" belongs to train. The images lie below `images`, else below the file's
    folder, by "filepath" and "filename". Ids are "cocoid" where there is one, else "imgid".

    Raises:
        DataError: the file is malformed or has no such split.
    """
    path = required_path(config)
    content = read_json(path)
    records = required_key(content, "images", str(path))
    wanted = {config.split, "restval"} if config.split == "train" and options.restval else {config.split}
    mine = [
        (f"{path} image {number}", record)
        for number, record in enumerate(records)
        if required_key(record, "split", f"{path} image {number}") in wanted
    ]
    if not mine:
        known = ", ".join(sorted({str(record["split"]) for record in records})) or "none"
        raise DataError(f"{path} has no images of split {config.split!r} (it has {known}); set data.split")
    names = [_file_name(record, where) for where, record in mine]
    images = find_all(open_images(config.images or path.parent), names)
    return [
        Sample(
            id=required_id(record, "cocoid" if "cocoid" in record else "imgid", where),
            image=images[name],
            targets=tuple(required_text(one, "raw", where) for one in required_key(record, "sentences", where)),
            meta={key: record[key] for key in ("split", "filename", "imgid") if key in record},
        )
        for name, (where, record) in zip(names, mine, strict=True)
    ]


def _file_name(record: Any, where: str) -> str:
    folder, name = record.get("filepath", ""), required_text(record, "filename", where)
    return f"{folder}/{name}" if folder else name


def read_blip(config: SourceConfig) -> list[Sample]:
    """Read a BLIP list of {"image", "caption", "image_id"}, one sample per image.

    "caption" is one text in lists for training, which name an image once for each of them, and a list of texts in
    those for scoring; either way an image comes once with all its captions. Its name is the id.

    Raises:
        DataError: an item is malformed.
    """
    path = required_path(config)
    captions: dict[str, list[str]] = {}
    meta: dict[str, dict[str, Any]] = {}
    for where, record in read_records(path):
        name = required_text(record, "image", where)
        captions.setdefault(name, []).extend(checked_texts(required_key(record, "caption", where), "caption", where))
        meta.setdefault(name, {key: value for key, value in record.items() if key not in ("image", "caption")})
    images = find_all(open_images(config.images or path.parent), captions)
    return [Sample(name, images[name], None, tuple(texts), "", meta[name]) for name, texts in captions.items()]
