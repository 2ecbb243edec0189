"""Let a model answer a whole data set, greedily, in batches."""

from __future__ import annotations

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
    model.eval()
    said: dict[str, str] = {}
    # Captions take many more steps than answers; batches of one sort end together.
    order = sorted(range(len(examples)), key=lambda i: examples.samples[i].prompt is None)
    with Display(len(examples), "predict", quiet=quiet, every=batch_size * 10) as display:
        for start in range(0, len(examples), batch_size):
            indices = order[start : start + batch_size]
            tokens = model.fuse(examples.features(indices)).tokens
            prompts = examples.prompts(indices)
            texts = model.generate(tokens, prompts, max_new_tokens=max_new_tokens, num_beams=num_beams)
            said |= {examples.samples[i].id: text for i, text in zip(indices, texts, strict=True)}
            display.update(start + len(indices))
    return {sample.id: said[sample.id] for sample in examples.samples}
