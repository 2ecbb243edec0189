"""Reads splits of the embedded world as samples: twelve questions and one caption for each scene."""

from __future__ import annotations

from tove_core.config import SourceConfig
from tove_core.data.files import PATH_KEY
from tove_core.data.sample import Sample
from tove_core.demo.captions import scene_captions
from tove_core.demo.language import Question
from tove_core.demo.splits import Split, split
from tove_core.errors import DataError

QUESTIONS = 12
UNASKED = frozenset({"side", "height"})
"""Types of question left out: they compare the positions of two objects. The captions of the world's CLIP name no
positions, its tokens tell the column of three patches in four, and every model trained here was left guessing."""

CAPTION_PROMPT = "describe the scene:"


def read(config: SourceConfig) -> list[Sample]:
    """Read the split named by `config.split`.

    Raises:
        DataError: a path is given, or there is no such split.
    """
    if config.path is not None and "--data" in PATH_KEY.get():
        raise DataError("--data goes with --reader here, for the reader is world, which reads no files; name both")
    if config.path is not None or config.images is not None:
        raise DataError("the world is rendered, not read: data.path and data.images do nothing; leave them out")
    found = split(config.split)
    per_scene = QUESTIONS + 1
    scenes = found.size if config.limit is None else min(found.size, -(-config.limit // per_scene))
    return samples(found, scenes)


def samples(
    part: Split,
    scenes: int | None = None,
    *,
    questions: int = QUESTIONS,
    captions: bool = True,
    unasked: frozenset[str] = UNASKED,
) -> list[Sample]:
    """Return the samples of a split's first scenes: `questions` of each, and its caption.

    Captions come in two wordings, so each caption sample has two targets.
    """
    rendered = part.scenes(0, scenes)
    asked = [_kept(about, questions, unasked) for about in part.questions(rendered, 2 * QUESTIONS)]
    told = scene_captions(rendered)
    found = []
    for i, (about, references) in enumerate(zip(asked, told, strict=True)):
        image = rendered.image[i]
        found += [_question(f"{part.name}-{i}-{q}", image, one) for q, one in enumerate(about)]
        if captions:
            found.append(Sample(f"{part.name}-{i}-caption", image, None, tuple(references), "caption"))
    return found


def _kept(about: list[Question], wanted: int, unasked: frozenset[str]) -> list[Question]:
    return [one for one in about if one.type not in unasked][:wanted]


def _question(name: str, image: object, one: Question) -> Sample:
    return Sample(name, image, one.text, (one.answer,), one.type)
