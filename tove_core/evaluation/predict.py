"""Let a model answer a whole data set, greedily, in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tove_core.errors import DataError
from tove_core.fusion.finite import require_finite
from tove_core.language.base import Texts
from tove_core.model import ToveModel
from tove_core.progress import Display
from tove_core.training.examples import Examples
from tove_core.training.shown import Shown, fuse_shown

_AT_ONCE = 4096
"""Questions that are measured at a time."""


@torch.no_grad()
def predict(
    model: ToveModel,
    examples: Examples,
    *,
    batch_size: int = 128,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    quiet: bool = True,
) -> dict[str, str]:
    """Return what the model says, by sample id, in the order of the data set; experts as it is deployed.

    Samples whose image turns out unreadable, where features are computed as they are wanted, are left out, with a
    warning.
    """
    said: dict[str, str] = {}
    generation = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    with Display(len(examples), "predict", quiet=quiet, every=batch_size * 10) as display:
        for batch in predict_batches(model, examples, batch_size=batch_size, **generation):
            said |= batch
            display.update(len(said))
    return {sample.id: said[sample.id] for sample in examples.samples if sample.id in said}


def predict_batches(
    model: ToveModel, examples: Examples, *, batch_size: int = 128, **generation: Any
) -> Iterator[dict[str, str]]:
    """Yield what the model says, by sample id, batch after batch: questions first, then captions.

    Raises:
        DataError: questions are too long for the language model; all of them are counted before anything is computed.
            Or the examples hold features of another model, or an expert gives values that are not finite.
    """
    examples.require_of(model)
    model.eval()
    own = model is examples.model  # whose choice it is
    require_room(model, examples, generation.get("max_new_tokens"))
    for indices, shown in examples.read(batch_size, questions_first(examples), deployed=own):
        with torch.no_grad():
            tokens = fuse_shown(model, shown).tokens
            said = say_batch(model, examples, indices, shown, tokens, examples.prompts(indices), **generation)
        yield said


def say_batch(
    model: ToveModel,
    examples: Examples,
    indices: Sequence[int],
    shown: Shown,
    tokens: Tensor,
    prompts: Texts,
    **generation: Any,
) -> dict[str, str]:
    """Return what the model says of a batch, by sample id.

    Args:
        model: with a decoder.
        examples: whose samples they are.
        indices: B of them.
        shown: their images.
        tokens: v' [R, N, D] of these.
        prompts: B, as texts or tokenised.
        generation: options of `Decoder.generate`.

    Raises:
        DataError: an expert gave values that are not finite.
    """
    ids = [examples.samples[i].id for i in indices]
    require_finite(tokens, shown.features, shown.of_first(ids))
    return dict(zip(ids, model.generate(shown.by_sample(tokens), prompts, **generation), strict=True))


def questions_first(examples: Examples) -> Callable[[int], bool]:
    """Return an order for `Examples.read`: captions take many more steps, and batches of one sort end together."""
    return lambda i: examples.samples[i].prompt is None


def require_room(model: ToveModel, examples: Examples, new: int | None) -> None:
    """Refuse questions that are too long for the language model with `new` tokens behind them (None: as configured).

    Raises:
        DataError: there are some; they are named.
    """
    decoder = model.decoder
    if decoder is None or decoder.limit is None:
        return
    new, grid, limit = decoder.config.max_new_tokens if new is None else new, math.prod(model.tower.grid), decoder.limit
    lengths: dict[tuple[str, int], int] = {}  # many samples ask the same
    long: list[str] = []
    for start in range(0, len(examples), _AT_ONCE):
        indices = range(start, min(start + _AT_ONCE, len(examples)))
        asked = [(text, len(examples.rows[i])) for i, text in zip(indices, examples.prompts(indices), strict=True)]
        unknown = list(dict.fromkeys(pair for pair in asked if pair not in lengths))
        texts = decoder.encode([prompt for prompt, _ in unknown], None) if unknown else []
        for (prompt, images), text in zip(unknown, texts, strict=True):
            lengths[prompt, images] = decoder.length(replace(text, target=()), grid * images) + new
        long += [examples.samples[i].id for i, pair in zip(indices, asked, strict=True) if lengths[pair] > limit]
    if long:
        shown = ", ".join(map(repr, long[:5])) + (", ..." if len(long) > 5 else "")
        raise DataError(
            f"{len(long)} of {len(examples)} samples ({shown}) exceed the {limit} positions of "
            f"{decoder.identity.architecture} with their images and {new} new tokens; shorten their questions, take "
            "them out, or lower max_new_tokens"
        )
