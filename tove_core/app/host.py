"""What a visitor's question to a model computes, and that no visitor changes it for another. No page, no gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Lock
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from tove_core.app.maps import gate_pictures, has_gate
from tove_core.errors import ConfigError, DataError
from tove_core.hub.images import ImageSource, read_image
from tove_core.language.marks import wrong_marks
from tove_core.model import ToveModel
from tove_core.naming import CLIP
from tove_core.seeing import as_now
from tove_core.selecting import looked


@dataclass(frozen=True)
class Question:
    """What one visitor asks.

    Attributes:
        image: as `ToveModel.answer` takes them.
        text: the question; blank: a caption is wanted.
        experts: that are to be on, and no others; None: those that are on in the model.
        compare: whether CLIP's own tokens are asked about too, without any expert.
    """

    image: ImageSource
    text: str = ""
    experts: Sequence[str] | None = None
    compare: bool = False


@dataclass(frozen=True)
class Reply:
    """What has been said so far.

    Attributes:
        text: with the experts that were to be on.
        plain: by CLIP's own tokens; None: that was not asked for.
        maps: a picture of the gate of each expert that is on, with its caption.
        note: what the maps show, or why there are none.
    """

    text: str
    plain: str | None
    maps: tuple[tuple[Image.Image, str], ...]
    note: str


class Look(NamedTuple):
    """What a model made of one image: enhanced tokens and CLIP's own [1, N, D], and each active expert's gate [h, w].

    Of a fusion without a gate, and where no expert is on, there are no gates.
    """

    tokens: Tensor
    plain: Tensor
    gates: dict[str, Tensor]


class Host:
    """A model that several visitors ask at the same time, each with experts of their own choice.

    Attributes:
        model: it is put into evaluation once; nothing else of it is ever changed.
        max_new_tokens: of an answer; None: as configured.
    """

    def __init__(self, model: ToveModel, max_new_tokens: int | None = None) -> None:
        # Generation leaves a model in the mode it found; of two at once, one would find the other's.
        self.model = model.eval()
        self.max_new_tokens = max_new_tokens
        # Experts may keep state between calls, or be brought to their device while they run.
        self._seeing = Lock()

    @property
    def experts(self) -> list[str]:
        """The experts that can be on, in the order of the gates."""
        return [] if self.model.fusion is None else self.model.fusion.experts

    def answer(self, question: Question) -> Iterator[Reply]:
        """Yield the reply while it is being written: first its maps alone, last the whole.

        With `compare` the answer with experts is written first, then CLIP's. Close the iterator where its reader is
        gone.

        Raises:
            ImageError: the image cannot be read.
            DataError: the question is no text or marks several images, or an expert's values are not finite.
            ConfigError: the question is too long for the language model.
            UnknownExpertError: the model holds no such expert.
        """
        prompt = self._prompt(question.text)
        image = read_image(question.image)
        now = as_now(self.model) if question.experts is None else switched(self.model, question.experts)
        with self._seeing:
            seen = look(now, image)
        maps, note = gate_pictures(now, image, seen.gates)
        reply = Reply("", "" if question.compare else None, maps, note)
        yield reply
        for text in self._write(seen.tokens, prompt):
            reply = replace(reply, text=text)
            yield reply
        for text in self._write(seen.plain, prompt) if question.compare else ():
            reply = replace(reply, plain=text)
            yield reply

    def _prompt(self, text: str) -> str:
        decoder = self.model.decoder
        if decoder is None:
            raise ConfigError("the model was built with decoder=None and cannot write text; give one with a decoder")
        if (fault := wrong_marks(text, 1)) is not None:
            raise DataError(fault)
        return text if text.strip() else decoder.config.caption_prompt

    def _write(self, tokens: Tensor, prompt: str) -> Iterator[str]:
        """Yield the answer so far, longer each time; nothing where nothing is said."""
        text = ""
        pieces: Iterator[str] = self.model.decoder.stream(  # type: ignore[union-attr]  # `_prompt` has looked
            tokens, prompt, max_new_tokens=self.max_new_tokens
        )
        with closing(pieces):  # type: ignore[type-var]  # a generator
            for piece in pieces:
                text += piece
                yield text


def switched(model: ToveModel, on: Sequence[str]) -> ToveModel:
    """Return the same model, parts shared, with these of its experts on and no others; the model itself stays.

    An expert that is off already stays so by its own rule; others are switched off by the configured one.

    Raises:
        UnknownExpertError: the model holds no such expert.
        ConfigError: experts are named and the model has none.
    """
    now = as_now(model)
    for name in on:
        now.attach(name)
    for name in now.active_experts:
        if name not in on:
            now.detach(name)
    return now


@torch.no_grad()
def look(model: ToveModel, image: ImageSource) -> Look:
    """Return what a model makes of an image with the experts that are on; the frozen parts run once.

    Raises:
        DataError: an expert gives values that are not finite.
    """
    features, fused = looked(model, [image])
    gates: dict[str, Tensor] = {}
    if fused.gates is not None and model.fusion is not None and has_gate(model):
        maps = fused.gates[0].unflatten(0, model.tower.grid)
        gates = {name: maps[..., k] for k, name in enumerate(model.fusion.experts) if name in model.active_experts}
    return Look(fused.tokens, features[CLIP], gates)
