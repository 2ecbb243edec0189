"""The answer loss: what a language model makes of the first targets of samples, given their enhanced tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tove_core.errors import DataError
from tove_core.language.base import Decoder, DecoderOutput
from tove_core.language.prompt import EncodedText
from tove_core.training.examples import Examples


def answer_loss(
    decoder: Decoder,
    examples: Examples,
    indices: Sequence[int],
    tokens: Tensor,
    texts: Sequence[EncodedText] | None = None,
) -> tuple[float, int]:
    """Return the nats of some samples' first targets, given v' [B, N, D], and how many tokens these have.

    Args:
        decoder: what expects them.
        examples: whose samples they are.
        indices: B of them.
        tokens: their v'.
        texts: what `answer_texts` gives of them, where it is asked more than once.
    """
    output = answers_expected(decoder, examples, indices, tokens, texts)
    return output.loss_sum.item(), int(output.token_count)


@torch.no_grad()
def answers_expected(
    decoder: Decoder,
    examples: Examples,
    indices: Sequence[int],
    tokens: Tensor,
    texts: Sequence[EncodedText] | None = None,
) -> DecoderOutput:
    """Return what the decoder makes of some samples' first targets, given their enhanced tokens [B, N, D].

    The arguments are those of `answer_loss`.
    """
    return decoder(tokens, answer_texts(decoder, examples, indices) if texts is None else texts)


def answer_texts(decoder: Decoder, examples: Examples, indices: Sequence[int]) -> list[EncodedText]:
    """Return some samples' prompts with their first targets, tokenised."""
    return decoder.encode(examples.prompts(indices), [examples.samples[i].targets[0] for i in indices])


def require_answers(count: int, examples: Examples) -> int:
    """Return how many answer tokens were seen.

    Raises:
        DataError: none.
    """
    if not count:
        raise DataError(f"none of {len(examples)} samples can be used; check the data set")
    return count
