"""The answer loss: what a language model makes of the first targets of samples, given their enhanced tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tove_core.errors import DataError
from tove_core.language.base import Decoder, DecoderOutput
from tove_core.training.examples import Examples


def answer_loss(decoder: Decoder, examples: Examples, indices: Sequence[int], tokens: Tensor) -> tuple[float, int]:
    """Return the nats of some samples' first targets, given v' [B, N, D], and how many tokens these have."""
    output = answers_expected(decoder, examples, indices, tokens)
    return output.loss_sum.item(), int(output.token_count)


@torch.no_grad()
def answers_expected(decoder: Decoder, examples: Examples, indices: Sequence[int], tokens: Tensor) -> DecoderOutput:
    """Return what the decoder makes of some samples' first targets, given their enhanced tokens [B, N, D]."""
    targets = [examples.samples[i].targets[0] for i in indices]
    return decoder(tokens, examples.prompts(indices), targets)


def require_answers(count: int, examples: Examples) -> int:
    """Return how many answer tokens were seen.

    Raises:
        DataError: none.
    """
    if not count:
        raise DataError(f"none of {len(examples)} samples can be used; check the data set")
    return count
