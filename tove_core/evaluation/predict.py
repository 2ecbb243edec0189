"""Let a model answer a whole data set, greedily, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.metrics import Display


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
    """Return what the model says for every sample, by sample id, in the order of the data set."""
    said: dict[str, str] = {}
    generation = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    with Display(len(examples), "predict", quiet=quiet, every=batch_size * 10) as display:
        for batch in predict_batches(model, examples, batch_size=batch_size, **generation):
            said |= batch
            display.update(len(said))
    return {sample.id: said[sample.id] for sample in examples.samples}


def predict_batches(
    model: ToveModel, examples: Examples, *, batch_size: int = 128, **generation: Any
) -> Iterator[dict[str, str]]:
    """Yield what the model says, by sample id, batch after batch: questions first, then captions."""
    model.eval()
    # Captions take many more steps than answers; batches of one sort end together.
    for indices in examples.batches(batch_size, lambda i: examples.samples[i].prompt is None):
        with torch.no_grad():
            tokens = model.fuse(examples.features(indices)).tokens
            texts = model.generate(tokens, examples.prompts(indices), **generation)
        yield {examples.samples[i].id: text for i, text in zip(indices, texts, strict=True)}
