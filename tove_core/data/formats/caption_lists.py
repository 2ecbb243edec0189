"""Caption data in two widespread lists: Karpathy's "dataset_coco.json" and the lists of BLIP."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import (
    checked_texts,
    optional_text,
    required_id,
    required_key,
    required_list,
    required_path,
    required_text,
)
from tove_core.data.images import FoundImages, find_all, open_images
from tove_core.data.json_list import read_members, read_records
from tove_core.data.malformed import one_row
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
    wanted = {config.split, "restval"} if config.split == "train" and options.restval else {config.split}
    images, samples = FoundImages(open_images(config.images or path.parent)), []
    known: set[str] = set()
    for key, number, record in read_members(path, ["images"]):
        if key == "images":
            with one_row:
                where = f"{path} image {number}"
                split = required_text(record, "split", where)
                known.add(split)
                if split in wanted:
                    samples.append(_captioned(record, where, images))
    if wanted.isdisjoint(known):
        told = ", ".join(sorted(known)) or "none"
        raise DataError(f"{path} has no images of split {config.split!r} (it has {told}); set data.split")
    return samples


def _captioned(record: dict[str, Any], where: str, images: FoundImages) -> Sample:
    folder, name = optional_text(record, "filepath", where), required_text(record, "filename", where)
    return Sample(
        id=required_id(record, "cocoid" if "cocoid" in record else "imgid", where),
        image=images[f"{folder}/{name}" if folder else name],
        targets=tuple([required_text(one, "raw", where) for one in required_list(record, "sentences", where)]),
        meta={key: record[key] for key in ("split", "filename", "imgid") if key in record},
    )


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
        with one_row:
            name = required_text(record, "image", where)
            texts = checked_texts(required_key(record, "caption", where), "caption", where)
            captions.setdefault(name, []).extend(texts)
            meta.setdefault(name, {key: value for key, value in record.items() if key not in ("image", "caption")})
    images = find_all(open_images(config.images or path.parent), captions)
    return [Sample(name, images[name], None, tuple(texts), "", meta[name]) for name, texts in captions.items()]
