"""Answers a list of requests in batches: in the order asked, whatever their images and options."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tove_core.errors import DataError
from tove_core.evaluation.lmms_eval.options import Generation, Report, read_generation
from tove_core.language.likelihood import Likelihood, likelihoods
from tove_core.language.marks import IMAGE, wrong_marks
from tove_core.model import ToveModel
from tove_core.progress import Display


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        prompt: question or instruction.
        images: opens its images, in order.
        place: names the document it is about; requests of one place have the same images.
    """

    prompt: str
    images: Callable[[], Sequence[Any] | None]
    place: Hashable


class Answers:
    """Lets a model answer requests.

    Args:
        model: with a decoder.
        report: is told once of everything that is done otherwise than asked.
        batch_size: requests at a time.
        quiet: show no progress.
    """

    def __init__(self, model: ToveModel, report: Report, *, batch_size: int = 1, quiet: bool = True) -> None:
        self.model = model.eval()
        self.batch_size = batch_size
        self.quiet = quiet
        self._report = report
        self._told: set[str] = set()

    def generate(self, asked: Sequence[Asked], options: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what the model says to each request; those with equal options are answered together.

        Raises:
            ConfigError: an option cannot be read, or a prompt is longer than the language model allows.
            DataError: a request has no image, or something else than images.
        """
        wanted = [read_generation(one, self.tell) for one in options]
        said: dict[int, str] = {}
        for indices, tokens in self._batches(asked, [one.key for one in wanted]):
            texts = self._generate(tokens, self._prompts([asked[i] for i in indices], tokens), wanted[indices[0]])
            said |= dict(zip(indices, texts, strict=True))
        return [said[i] for i in range(len(asked))]

    def score(self, asked: Sequence[Asked], answers: Sequence[str]) -> list[Likelihood]:
        """Return how likely the model finds each answer to its request.

        Raises:
            ConfigError: a prompt and its answer are longer than the language model allows.
            DataError: an answer is blank, or a request has no image, or something else than images.
        """
        found: dict[int, Likelihood] = {}
        for indices, tokens in self._batches(asked, [""] * len(asked)):
            prompts = self._prompts([asked[i] for i in indices], tokens)
            values = likelihoods(self.model.decoder, tokens, prompts, [answers[i] for i in indices])  # type: ignore[arg-type]
            found |= dict(zip(indices, values, strict=True))
        return [found[i] for i in range(len(asked))]

    def tell(self, sentence: str) -> None:
        """Report a sentence, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            self._report(sentence)

    def _generate(self, tokens: Tensor, prompts: list[str], wanted: Generation) -> list[str]:
        length = wanted.max_new_tokens
        room = self.model.decoder.room(tokens, prompts)  # type: ignore[union-attr]
        if length is not None and room is not None and 0 < room < length:
            self.tell(f"max_new_tokens={length} is cut to what the language model's positions leave behind a prompt")
            length = room
        texts = self.model.generate(tokens, prompts, max_new_tokens=length, **wanted.options)
        return [wanted.cut(text) for text in texts]

    def _prompts(self, asked: Sequence[Asked], tokens: Tensor) -> list[str]:
        """Return the prompts; marks for images stay where they are as many as the images, of which `tokens` are."""
        images = tokens.shape[1] // self.model.tower.tokens
        return [self._prompt(one.prompt, images) for one in asked]

    def _prompt(self, prompt: str, images: int) -> str:
        if wrong_marks(prompt, images) is None:
            return prompt
        self.tell(
            f"a prompt has other places {IMAGE} than images; all images stand where the checkpoint's template puts them"
        )
        return prompt.replace(IMAGE, "").strip()

    def _batches(self, asked: Sequence[Asked], keys: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield indices of requests that go together, and their tokens [B, N, D]; equal keys and image counts."""
        # Requests of one document stand together: its images are encoded once. Python's sort keeps their order.
        first = {place: i for i, place in reversed(list(enumerate(one.place for one in asked)))}
        order = sorted(range(len(asked)), key=lambda i: (keys[i], first[asked[i].place]))
        seen: dict[Hashable, Tensor] = {}
        with Display(len(asked), "answer", quiet=self.quiet, every=self.batch_size * 10) as display:
            done = 0
            for batch in _runs(order, keys, self.batch_size):
                seen = self._see([asked[i] for i in batch], seen)
                sizes = {i: seen[asked[i].place].shape[0] for i in batch}
                for size in dict.fromkeys(sizes.values()):
                    indices = [i for i in batch if sizes[i] == size]
                    yield indices, torch.stack([seen[asked[i].place] for i in indices])
                done += len(batch)
                display.update(done)

    def _see(self, asked: Sequence[Asked], known: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Return the tokens [N, D] of every document, those of several images one image after the other."""
        new = {one.place: _opened(one) for one in asked if one.place not in known}
        found = {one.place: known[one.place] for one in asked if one.place in known}
        if new:
            if any(len(images) > 1 for images in new.values()):
                self.tell(
                    "requests have several images; where the prompt marks no places, they stand one after the other"
                )
            tokens = self.model.tokens([image for images in new.values() for image in images])
            parts = tokens.split([len(images) for images in new.values()])
            found |= {place: part.flatten(0, 1) for place, part in zip(new, parts, strict=True)}
        return found


def _runs(order: Sequence[int], keys: Sequence[str], size: int) -> Iterator[list[int]]:
    """Cut an order into batches of at most `size` with one key each."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == size or keys[batch[0]] != keys[i]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _opened(one: Asked) -> list[Image.Image]:
    images = list(one.images() or ())
    if not images:
        raise DataError(f"request {one.place} has no image, and tove answers about images only; choose another task")
    for image in images:
        if not isinstance(image, Image.Image):
            raise DataError(
                f"request {one.place} has a visual of type {type(image).__name__}, but tove sees still images alone; "
                "choose another task"
            )
    return images
