"""Learn what each expert saves on an image, by regression of the frozen model's answer loss on random sets of experts.

An additive surrogate, as of Shapley values: L(x, S) is about b(x) - Σ_{k in S} a_k(x). Each sample is asked with a
random set and with the rest of the experts. The difference of the two losses says what the experts save, whatever the
question; their sum says how hard the question is, and fits b alone.
"""

from __future__ import annotations

import math
from contextlib import closing

import torch
from torch import Tensor

from tove_core.data.batches import BatchSampler, mixture_parts
from tove_core.fusion.selector import Selector
from tove_core.language.base import Decoder
from tove_core.model import CLIP, ToveModel
from tove_core.progress import Display
from tove_core.selecting import of_images
from tove_core.selection.measure import sample_losses
from tove_core.training.examples import Examples

_CLIP_NORM = 1.0
_WARMUP = 0.05
"""Share of the steps over which the rate rises."""


def learn(
    model: ToveModel,
    decoder: Decoder,
    selector: Selector,
    examples: Examples,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    quiet: bool,
) -> None:
    """Train a selector in place; nothing of the model changes.

    Args:
        examples: that fit the language model.

    Raises:
        DataError: too many images are unreadable.
        ToveError: the loss of a sample is not finite.
    """
    sampler = BatchSampler(len(examples), batch_size, seed, mixture_parts(examples.samples))
    draw = torch.Generator().manual_seed(seed)
    parameters = list(selector.requires_grad_(True).train().parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    with Display(steps, "select", quiet=quiet) as display, closing(examples):
        for step in range(steps):
            coming = sampler.batch(step + 1) if step + 1 < steps else []
            indices = examples.usable(sampler.batch(step), coming)
            parts = [[indices[place] for place in places] for places in examples.alike(indices)]
            saved = level = torch.zeros((), device=model.device)
            for part in parts:
                one, other = _errors(model, decoder, selector, examples, part, draw)
                saved, level = saved + one.square().sum(), level + other.square().sum()
            optimizer.zero_grad(set_to_none=True)
            # Squares and no robust loss: what is wanted is the mean of what is saved, however unevenly it comes.
            ((saved + level) / len(indices)).backward()
            torch.nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _schedule(step, steps)
            optimizer.step()
            display.update(step + 1, f"error {(saved / len(indices)).item():.4f}")
    selector.requires_grad_(False).eval()


def drawn(images: int, experts: int, draw: torch.Generator) -> Tensor:
    """Return random sets of experts, bool [R, K]; their size is uniform from 0 to K."""
    sizes = torch.randint(experts + 1, (images, 1), generator=draw)
    return torch.rand(images, experts, generator=draw).argsort(1) < sizes


def _errors(
    model: ToveModel,
    decoder: Decoder,
    selector: Selector,
    examples: Examples,
    indices: list[int],
    draw: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return by how much a selector is off, [B] each: about what is saved, and about the level."""
    features = examples.features(indices)
    tokens = of_images(model, {CLIP: features[CLIP]})[CLIP]
    mask = drawn(len(tokens), len(selector.experts), draw).to(model.device)
    first, second = (
        sample_losses(model, decoder, examples, indices, features, selector.experts, one) for one in (mask, ~mask)
    )
    expected = selector(tokens)
    # Experts of several images save together; the level is that of the images on average.
    signs = torch.where(mask, 0.5, -0.5).to(expected.values)
    difference = (expected.values * signs).sum(1).reshape(len(indices), -1).sum(1)
    half = 0.5 * expected.values.detach().sum(1).reshape(len(indices), -1).sum(1)
    level = expected.baseline.reshape(len(indices), -1).mean(1) - half
    return difference + (first - second) / 2, level - (first + second) / 2


def _schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: a linear rise, then half a cosine down."""
    warmup = max(1, round(_WARMUP * steps))
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
