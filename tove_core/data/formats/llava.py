"""LLaVA conversations: JSON or JSON lines of an image and turns of "human" and "gpt"."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import required_key, required_path, required_text, writable
from tove_core.data.images import FoundImages, open_images
from tove_core.data.json_list import read_records
from tove_core.data.malformed import one_row
from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.language.marks import IMAGE
from tove_core.spec import Frozen


class LlavaOptions(Frozen):
    """Options of the reader "llava"."""

    turns: Literal["all", "first"] = Field(
        default="all", description="all: a sample per answer, what was said before in its prompt; first: the first one"
    )
    text_only: Literal["refuse", "skip"] = Field(
        default="refuse", description="what becomes of conversations without an image, which tove cannot train on"
    )


def read(config: SourceConfig, options: LlavaOptions) -> list[Sample]:
    """Read one sample per answer: the prompt is the question, after the turns before it, a line each.

    Ids are "ID/TURN", turns counted from 0; where an ID comes again, as in published mixtures, "ID#2/TURN".
    "image" may be a list. `<image>` belongs into the first human turn, once for each image: of several it marks their
    places and stays; a single image stands before the text and its mark is taken out.

    Raises:
        DataError: a conversation is malformed, or has no image and `text_only` is "refuse".
    """
    path = required_path(config)
    images, seen = FoundImages(open_images(config.images or path.parent)), Counter[str]()
    samples, number, bare = [], -1, 0
    for where, record in read_records(path):
        with one_row:
            if not record.get("image"):
                if options.text_only == "refuse":
                    raise DataError(f"{where} has no image; take it out, or set data.options.text_only to skip")
                bare += 1
                continue
            number += 1
            told = writable(str(record.get("id", f"item {number}")), "id", where)
            seen[told] += 1
            identifier = told if seen[told] == 1 else f"{told}#{seen[told]}"
            samples += _answers(record, identifier, images, where)[: 1 if options.turns == "first" else None]
    if bare:
        warnings.warn(
            f"{bare} of {bare + number + 1} conversations of {path} have no image and are left out, "
            "as data.options.text_only says",
            stacklevel=2,
        )
    return samples


def _answers(record: Mapping[str, Any], identifier: str, images: FoundImages, where: str) -> list[Sample]:
    """Return a sample for each answer of a conversation."""
    names = _names(record["image"], where)
    found = tuple([images[name] for name in names])
    image = found if isinstance(record["image"], list) else found[0]
    samples, said = [], []
    for turn, (question, answer) in enumerate(_turns(record, len(names), where)):
        said.append(question)
        samples.append(Sample(f"{identifier}/{turn}", image, "\n".join(said), (answer,)))
        said.append(answer)
    return samples


def _names(image: Any, where: str) -> list[str]:
    names = image if isinstance(image, list) else [image]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{where} has the image {image!r:.60}, but a path or a list of them is wanted; repair it")
    return [writable(name, "image", where) for name in names]


def _turns(record: Mapping[str, Any], images: int, where: str) -> list[tuple[str, str]]:
    """Return questions and answers, with the places of several images and without that of a single one."""
    said = required_key(record, "conversations", where)
    if not isinstance(said, list) or not said or len(said) % 2:
        raise DataError(f"{where} has no conversation of questions with an answer each; repair it or take it out")
    texts = []
    for turn, part in enumerate(said):
        speaker, wanted = required_key(part, "from", where), ("human", "gpt")[turn % 2]
        if speaker != wanted:
            raise DataError(f"{where} turn {turn} is from {speaker!r:.60}, but {wanted!r} is wanted; repair it")
        text = required_text(part, "value", where)
        places = text.count(IMAGE)
        if places and (turn or places != images):
            raise DataError(
                f"{where} turn {turn} has {IMAGE} {places} times for {images} images, but it belongs into the first "
                "turn, once for each; repair it"
            )
        if places == 1:
            text = text.replace(IMAGE, "").strip()
        if not text.replace(IMAGE, "").strip():
            raise DataError(f"{where} turn {turn} says nothing; repair it or take it out")
        texts.append(text)
    return list(zip(texts[::2], texts[1::2], strict=True))
