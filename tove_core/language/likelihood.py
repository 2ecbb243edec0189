"""How likely a decoder finds texts as answers, for tests whose choices are scored rather than generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tove_core.errors import DataError
from tove_core.language.base import Decoder


@dataclass(frozen=True)
class Likelihood:
    """What a decoder makes of one text as the answer to one prompt.

    Attributes:
        log_probability: natural logarithm of the probability of the text's tokens, all of them together.
        greedy: whether every token is the most likely one after those before it, so that greedy search writes the text.
        tokens: their number.
    """

    log_probability: float
    greedy: bool
    tokens: int


@torch.no_grad()
def likelihoods(
    decoder: Decoder, tokens: Tensor, prompts: Sequence[str], answers: Sequence[str], *, end: bool = False
) -> list[Likelihood]:
    """Return the likelihood of each answer; surrounding blanks do not count, as in training.

    Args:
        decoder: of either kind.
        tokens: vision tokens [B, N, D].
        prompts: B of them.
        answers: B of them.
        end: whether the answer must also end there: its end token counts too.

    Raises:
        ConfigError: tokens are not [B, N, D], or the sequence is longer than the language model allows.
        DataError: an answer is blank, or the lists do not fit the batch.
    """
    if blank := [prompt for prompt, answer in zip(prompts, answers, strict=False) if not answer.strip()]:
        raise DataError(
            f"{len(blank)} of {len(answers)} answers are blank (first prompt: {blank[0]!r}), and nothing has no "
            "likelihood; give a text each"
        )
    training = decoder.training
    decoder.eval()
    try:
        output = decoder(tokens, prompts, answers)
    finally:
        decoder.train(training)
    # To the CPU at once: reading them sample by sample would wait for the device each time, and MPS has no float64.
    chosen = output.logits.log_softmax(-1).gather(1, output.targets[:, None]).squeeze(1).cpu().double()
    likely = (output.logits.argmax(-1) == output.targets).cpu()
    found = []
    sizes = output.tokens_per_sample.tolist()
    for values, hits in zip(chosen.split(sizes), likely.split(sizes), strict=True):
        size = len(values) if end else len(values) - 1  # an answer's last token is its end
        found.append(Likelihood(float(values[:size].sum()), bool(hits[:size].all()), size))
    return found
