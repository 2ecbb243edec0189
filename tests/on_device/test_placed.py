"""Experts that run elsewhere, in parts or in another precision give what they give beside CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

EXPERTS = ("toy-fine", "toy-wide", "toy-whole:large")


@pytest.mark.parametrize(
    "placement", [{}, {"stream": True}, {"micro_batch": 2}, {"micro_batch": "auto"}, {"device": "cpu"}], ids=str
)
def test_placed_experts_give_the_features_of_the_cpu(
    placement: dict[str, Any], toy: Any, device: str, near: Callable[..., None]
) -> None:
    experts = [{"name": name, **placement} for name in EXPERTS]
    plain = toy.build(EXPERTS, decoder=None, weights="random").encode(toy.pictures(5))
    placed = toy.build(experts, decoder=None, weights="random", device=device).encode(toy.pictures(5))
    for name, features in plain.items():
        near(placed[name], features)


def test_experts_of_another_device_give_their_features_where_clip_is(
    toy: Any, device: str, near: Callable[..., None]
) -> None:
    if device != "sim" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    other = f"{device.partition(':')[0]}:1"
    model = toy.build([{"name": name, "device": other} for name in EXPERTS], weights="random", device=device)
    assert {str(p.device) for p in model.experts.parameters()} == {other}
    plain = toy.build(EXPERTS, weights="random")
    for one in (model, plain):
        toy.examples(one)
    near(model.tokens(toy.pictures()), plain.tokens(toy.pictures()))


def test_regions_and_their_words_become_tokens_on_the_device(toy: Any, device: str, near: Callable[..., None]) -> None:
    plain, placed = (
        toy.build(["toy-names"], decoder=None, clip=toy.reading_clip, device=place).encode(toy.pictures(5))
        for place in (None, device)
    )
    assert plain["toy-names"].abs().sum() > 0
    near(placed["toy-names"], plain["toy-names"])


def test_statistics_of_an_expert_that_joins_are_measured_there(
    toy: Any, device: str, near: Callable[..., None]
) -> None:
    models = [toy.build(["toy-wide"], device=place) for place in (device, None)]
    for model in models:
        toy.examples(model)
        model.add_expert("toy-fine", images=toy.pictures(5))
    near(models[0].tokens(toy.pictures()), models[1].tokens(toy.pictures()))
