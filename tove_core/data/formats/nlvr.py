"""NLVR, version 1 (lic.nlp.cornell.edu/nlvr): statements about three boxes of shapes, true or false."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import read_json_lines, required_path, required_text
from tove_core.data.images import ImageArchive, ImageFolder, find_all
from tove_core.data.malformed import one_row
from tove_core.data.parts import ImagePart
from tove_core.data.sample import ImageRef, Sample, image_digest
from tove_core.errors import DataError
from tove_core.spec import Frozen

BOXES = ((0.0, 0.0, 0.25, 1.0), (0.375, 0.0, 0.625, 1.0), (0.75, 0.0, 1.0, 1.0))
"""The boxes of a strip of 400 x 100 pixels: 100 pixels wide each, 50 between them."""


class NlvrOptions(Frozen):
    """Options of the reader "nlvr"."""

    permutations: Annotated[int, Field(ge=1, le=6)] = Field(
        default=6, description="how many of the six pictures of a statement, which differ in the order of the boxes"
    )
    images: Literal["boxes", "strip"] = Field(
        default="boxes", description="boxes: three images per sample; strip: one, with the gaps between the boxes"
    )
    disjoint_from: str | None = Field(
        default=None, description="another split: samples whose picture is in it too, byte for byte, are left out"
    )
    strict: bool = Field(
        default=False, description="with disjoint_from: also leave out samples whose sentence is in that split"
    )


def read(config: SourceConfig, options: NlvrOptions) -> list[Sample]:
    """Read one split, a sample per picture; ids are as the pictures' names, "dev-1572-0-3".

    The folder `path` holds `{split}.json` (JSON lines), and the pictures as `{split}/images/DIRECTORY/NAME.png`,
    as `images/...` below `{split}` or inside `{split}_images.tar`. What the pictures of one statement share is
    `meta["identifier"]`; never divide them between training and scoring.

    Raises:
        DataError: files are missing, or a line is malformed.
    """
    folder = required_path(config)
    if config.images is not None:
        raise DataError("data.images was given, but reader 'nlvr' finds the images below data.path; leave it out")
    if options.strict and options.disjoint_from is None:
        raise DataError("data.options.strict was set without disjoint_from; name the split that is scored on")
    if options.disjoint_from == config.split:
        raise DataError(
            f"split {config.split!r} cannot be disjoint from itself; disjoint_from is of the split that is trained on "
            "and names the one that is scored on, whose own options leave it out"
        )
    found = _strips(folder, config.split, options.permutations)
    if options.disjoint_from is not None:
        found = _without(found, _strips(folder, options.disjoint_from, 6), options.strict)
    boxed = options.images == "boxes"
    return [
        Sample(
            id=name,
            image=tuple(ImagePart(strip, box) for box in BOXES) if boxed else strip,
            prompt=sentence,
            targets=(label,),
            meta={"identifier": identifier},
        )
        for name, identifier, sentence, label, strip in found
    ]


def images_of(options: NlvrOptions) -> int:
    """Return how many images a sample has."""
    return len(BOXES) if options.images == "boxes" else 1


Strip = tuple[str, str, str, str, ImageRef]


def _strips(folder: Path, split: str, permutations: int) -> list[Strip]:
    """Return name, identifier, sentence, label and picture of each sample."""
    file = (
        folder / split / f"{split}.json" if (folder / split / f"{split}.json").is_file() else folder / f"{split}.json"
    )
    if not file.is_file():
        raise DataError(f"{folder} has no {split}.json; set data.path to NLVR's folder, data.split to dev or test")
    rows = []
    for number, record in read_json_lines(file):
        with one_row:
            where = f"{file} line {number}"
            label = required_text(record, "label", where).lower()
            if label not in ("true", "false"):
                raise DataError(f"{where} has the label {label!r:.60}, but true or false is wanted; repair it")
            identifier, sentence = required_text(record, "identifier", where), required_text(record, "sentence", where)
            directory = required_text(record, "directory", where)
            names = [f"{split}-{identifier}-{k}" for k in range(permutations)]
            rows += [(name, identifier, sentence, label, f"images/{directory}/{name}.png") for name in names]
    images = find_all(_source(folder, split), (row[-1] for row in rows))
    return [(*row[:-1], images[row[-1]]) for row in rows]


def _source(folder: Path, split: str) -> ImageFolder | ImageArchive:
    if (folder / split / "images").is_dir():
        return ImageFolder(folder / split)
    archive = folder / f"{split}_images.tar"
    if not archive.is_file():
        raise DataError(f"{folder} has neither {split}/images nor {archive.name}; add the pictures of that split")
    return ImageArchive(archive)


def _without(mine: list[Strip], others: list[Strip], strict: bool) -> list[Strip]:
    """Return the samples that share no picture, and in the strict case no sentence, with others."""
    pictures = {image_digest(strip[-1]) for strip in others}
    sentences = {_plain(strip[2]) for strip in others} if strict else set()
    return [strip for strip in mine if _plain(strip[2]) not in sentences and image_digest(strip[-1]) not in pictures]


def _plain(sentence: str) -> str:
    return " ".join(sentence.lower().split()).rstrip(" .")
