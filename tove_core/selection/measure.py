"""The answer loss of samples under a choice of experts for each of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tove_core.errors import ToveError
from tove_core.language.base import Decoder
from tove_core.model import CLIP, ToveModel
from tove_core.selecting import fuse_images, of_images
from tove_core.training.answers import answers_expected
from tove_core.training.examples import Examples


class Choice(Protocol):
    """Which of K experts run on R images, bool [R, K], given their v [R, N, D]."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Choose."""
        ...


@dataclass
class Seen:
    """What came of one choice.

    Attributes:
        loss: mean nats per answer token of each sample.
        ran: for each image of each sample, which experts ran, [R, K].
    """

    loss: list[float] = field(default_factory=list)
    ran: list[list[bool]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean over samples."""
        return sum(self.loss) / len(self.loss)

    def shares(self, experts: Sequence[str]) -> dict[str, float]:
        """Return on which share of the images each expert ran."""
        ran = torch.tensor(self.ran, dtype=torch.float64).mean(0)
        return dict(zip(experts, ran.tolist(), strict=True))

    def cost(self, costs: Mapping[str, float]) -> float:
        """Return the mean cost of an image."""
        shares = self.shares(list(costs))
        return sum(shares[name] * cost for name, cost in costs.items())


@torch.no_grad()
def sample_losses(
    model: ToveModel,
    decoder: Decoder,
    examples: Examples,
    indices: Sequence[int],
    features: Mapping[str, Tensor],
    experts: Sequence[str],
    mask: Tensor,
) -> Tensor:
    """Return mean nats per answer token [B] of samples with M images each, by a choice for each image.

    Args:
        features: of the samples, as `Examples.features` gives them.
        experts: the K columns of the mask.
        mask: bool [B·M, K].

    Raises:
        ToveError: the loss of a sample is not finite.
    """
    every = model.fusion.experts if model.fusion is not None else []
    full = mask.new_zeros(len(mask), len(every))
    full[:, [every.index(name) for name in experts]] = mask
    output = answers_expected(decoder, examples, indices, fuse_images(model, features, full).tokens)
    losses = output.loss_per_sample / output.tokens_per_sample
    if not losses.isfinite().all():
        bad = int((~losses.isfinite()).nonzero()[0])
        raise ToveError(
            f"the answer loss of sample {examples.samples[indices[bad]].id!r} is {losses[bad].item()}; nothing was "
            "written; look at this sample, or detach the expert whose values are not finite"
        )
    return losses


def measured(
    model: ToveModel, decoder: Decoder, examples: Examples, choices: Mapping[str, Choice], batch_size: int
) -> tuple[list[int], dict[str, Seen]]:
    """Return the samples that could be used, and what came of each choice on them; images are encoded once."""
    found, used = {name: Seen() for name in choices}, list[int]()
    for indices, shown in examples.read(batch_size):
        used, features = used + indices, shown.of_samples()  # a choice may differ between samples of one image
        tokens = of_images(model, {CLIP: features[CLIP]})[CLIP]
        for name, choose in choices.items():
            mask = choose(tokens)
            losses = sample_losses(model, decoder, examples, indices, features, model.active_experts, mask)
            found[name].loss += losses.tolist()
            found[name].ran += mask.tolist()
    return used, found
