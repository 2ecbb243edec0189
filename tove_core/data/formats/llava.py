"""LLaVA conversations and chat messages: JSON or JSON lines of images and turns of two who ask and answer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import required_path, writable
from tove_core.data.formats.llava_turns import Talk, shows_inside, talk, turns_of
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
    """Read one sample per answer: the prompt is the question, after a system text and the turns before, a line each.

    Turns stand under "conversations" or "messages", images under "image" or "images", one or a list.
    Ids are "ID/TURN", answers counted from 0; where an ID comes again, as in published mixtures, "ID#2/TURN".
    `<image>` belongs into the first question, once for each image: of several it marks their
    places and stays; a single image stands before the text and its mark is taken out.

    Raises:
        DataError: a conversation is malformed, or has no image and `text_only` is "refuse".
    """
    path = required_path(config)
    images, seen = FoundImages(open_images(config.images or path.parent)), Counter[str]()
    samples, number, bare = [], -1, 0
    for where, record in read_records(path):
        with one_row:
            said, shown = turns_of(record, where), _shown(record, where)
            if not shown:
                if shows_inside(said):
                    raise DataError(f"{where} has more than text in its turns, but no 'images'; name the images there")
                if options.text_only == "refuse":
                    raise DataError(
                        f"{where} has no image under 'image' or 'images' (it has {', '.join(record)}); add it, take "
                        "the conversation out, or set data.options.text_only to skip"
                    )
                bare += 1
                continue
            number += 1
            told = writable(str(record.get("id", f"item {number}")), "id", where)
            seen[told] += 1
            identifier = told if seen[told] == 1 else f"{told}#{seen[told]}"
            found = _answers(talk(record, said, where), shown, identifier, images, where)
            samples += found[:1] if options.turns == "first" else found
    if bare:
        warnings.warn(
            f"{bare} of {bare + number + 1} conversations of {path} have no image and are left out, "
            "as data.options.text_only says",
            stacklevel=2,
        )
    return samples


def _shown(record: Mapping[str, Any], where: str) -> Any:
    """Return what names the images, as it is; None or something empty where nothing does."""
    one, several = record.get("image"), record.get("images")
    if one and several:
        raise DataError(f"{where} has both 'image' and 'images', but one is wanted; take one out")
    return one or several


def _answers(told: Talk, shown: Any, identifier: str, images: FoundImages, where: str) -> list[Sample]:
    """Return a sample for each answer of a conversation."""
    names = _names(shown, where)
    found = tuple([images[name] for name in names])
    image = found if isinstance(shown, list) else found[0]
    samples, said = [], [told.system] if told.system else []
    for turn, (question, answer) in enumerate(_turns(told, len(names), where)):
        said.append(question)
        samples.append(Sample(f"{identifier}/{turn}", image, "\n".join(said), (answer,)))
        said.append(answer)
    return samples


def _names(image: Any, where: str) -> list[str]:
    names = image if isinstance(image, list) else [image]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{where} has the image {image!r:.60}, but a path or a list of them is wanted; repair it")
    return [writable(name, "image", where) for name in names]


def _turns(told: Talk, images: int, where: str) -> list[tuple[str, str]]:
    """Return questions and answers, with the places of several images and without that of a single one."""
    texts = []
    for turn, text in enumerate(told.texts, start=told.first):
        places = text.count(IMAGE)
        if places and (turn != told.first or places != images):
            raise DataError(
                f"{where} turn {turn} has {IMAGE} {places} times for {images} images, but it belongs into the first "
                "question, once for each; repair it"
            )
        if places == 1:
            text = text.replace(IMAGE, "").strip()
        if not text.replace(IMAGE, "").strip():
            raise DataError(f"{where} turn {turn} says nothing; repair it or take it out")
        texts.append(text)
    return list(zip(texts[::2], texts[1::2], strict=True))
