from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tove_core.checkpoint import selector_of
from tove_core.errors import ToveError
from tove_core.fusion.selector import Selection
from tove_core.model import CLIP
from tove_core.selecting import of_images
from tove_core.selection.learn import drawn, learn
from tove_core.selection.measure import sample_losses
from tove_core.training.examples import Examples

LEARN = importlib.import_module("tove_core.selection.learn")
COSTS = {"toy-fine": 0.5, "toy-wide": 0.3, "toy-whole": 0.2}
OPTIONS: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-2, "seed": 2, "quiet": True}


def trained(toy: Any) -> Any:
    model = toy.build(list(COSTS), seed=1)
    model.calibrate(toy.pictures(5))
    model.trained = True
    return model


def selector_for(model: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return selector_of(model, Selection(budget=0.5, price=0, costs=COSTS, hidden=32))


def test_random_sets_have_every_size_equally_often_and_no_favourite() -> None:
    draw = torch.Generator().manual_seed(0)
    sets = drawn(8000, 4, draw)
    sizes = sets.sum(1).bincount(minlength=5) / 8000
    assert sizes.tolist() == pytest.approx([0.2] * 5, abs=0.02)
    assert sets.double().mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.02)


@pytest.mark.parametrize("images", [1, 2])
def test_it_learns_what_each_expert_saves_on_each_image_whatever_the_question(
    toy: Any, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    model, pictures = trained(toy), toy.pictures(12)
    samples = [replace(one, id=f"{one.id}-{k}") for one in toy.samples() for k in range(2)]
    if images == 2:
        samples = [replace(one, image=(one.image, pictures[-1 - i // 2])) for i, one in enumerate(samples)]
    examples = Examples.cached(model, samples)
    tokens = model.encode(pictures, only=[CLIP])[CLIP]
    # A known world: by colour an image gains from one expert and is harmed by another; some questions are hard.
    centre = tokens.mean((0, 1))

    def truth(v: Tensor) -> Tensor:
        score = ((v.mean(1) - centre) @ torch.linspace(-1, 1, v.shape[-1])).sign()
        return torch.stack([0.4 * score, 0.2 - 0.3 * score, torch.full_like(score, 0.1)], 1)

    def losses(_: Any, __: Any, asked: Any, indices: Sequence[int], features: Any, names: Any, mask: Tensor) -> Tensor:
        assert list(names) == list(COSTS)
        saved = (mask * truth(of_images(model, features)[CLIP])).sum(1).reshape(len(indices), -1).sum(1)
        hard = torch.tensor([3.0 * asked.samples[i].id.endswith("-1") for i in indices])
        return 1 + hard - saved

    monkeypatch.setattr(LEARN, "sample_losses", losses)
    selector = selector_for(model)
    learn(model, model.decoder, selector, examples, steps=300, **OPTIONS)
    expected = selector(tokens)
    torch.testing.assert_close(expected.values, truth(tokens), atol=0.06, rtol=0)
    assert expected.baseline.mean().item() == pytest.approx(2.5, abs=0.4)
    assert not any(p.requires_grad for p in selector.parameters()) and not selector.training


def test_the_loss_of_a_sample_is_that_of_its_answer_under_the_mask_alone(toy: Any) -> None:
    model = trained(toy)
    examples = Examples(model, toy.samples())
    mask = drawn(12, 2, torch.Generator().manual_seed(3))
    features = examples.features(range(12))
    found = sample_losses(model, model.decoder, examples, range(12), features, ["toy-whole", "toy-fine"], mask)
    for i in range(12):
        on = {name for name, own in zip(["toy-whole", "toy-fine"], mask[i].tolist(), strict=True) if own}
        for name in COSTS.keys() - on:
            model.detach(name)
        tokens = model.tokens(toy.samples()[i].image)
        output = model.decoder(tokens, examples.prompts([i]), [examples.samples[i].targets[0]])
        assert found[i].item() == pytest.approx((output.loss_sum / output.token_count).item(), rel=1e-4)
        for name in COSTS.keys() - on:
            model.attach(name)


def test_a_loss_that_is_not_finite_names_its_sample(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(toy)
    examples = Examples.cached(model, toy.samples())
    plain = examples.features

    def torn(indices: Sequence[int]) -> dict[str, Tensor]:
        found = plain(indices)
        found["toy-wide"][[i == 4 for i in indices]] = torch.nan
        return found

    monkeypatch.setattr(examples, "features", torn)
    with pytest.raises(ToveError, match=r"the answer loss of sample 's4' is nan; nothing was written"):
        learn(model, model.decoder, selector_for(model), examples, steps=4, **OPTIONS)
