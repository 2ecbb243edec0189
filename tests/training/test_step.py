from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tove_core.fusion.noise import annealed, sample_keys, sample_mask, sample_noise
from tove_core.training.step import TransferStep, importance


def test_importance_is_the_squared_coefficient_of_variation() -> None:
    mass = torch.tensor([3.0, 5.0, 10.0], dtype=torch.float64)
    mean = 6.0
    variance = ((3 - mean) ** 2 + (5 - mean) ** 2 + (10 - mean) ** 2) / 3
    assert importance(mass).item() == pytest.approx(variance / mean**2)
    assert importance(7 * mass).item() == pytest.approx(importance(mass).item())
    assert importance(torch.full((4,), 2.5)).item() == 0
    assert importance(torch.tensor([4.0])).item() == 0


def test_importance_has_the_right_gradient_and_pulls_masses_together() -> None:
    mass = torch.tensor([3.0, 5.0, 10.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(importance, mass)
    (slope,) = torch.autograd.grad(importance(mass), mass)
    assert slope[2] > 0 > slope[3]


def features(model: Any, toy: Any) -> dict[str, torch.Tensor]:
    model.calibrate(toy.pictures(4))
    return model.encode(toy.pictures(7))


def test_noise_and_dropped_experts_belong_to_the_sample_and_not_to_the_batch(toy: Any) -> None:
    model = toy.build()
    given = features(model, toy)
    step = TransferStep(model.fusion, model.decoder).eval()
    keys = sample_keys(3, [0] * 7, range(7))

    def tokens(rows: list[int]) -> torch.Tensor:
        part = {name: value[rows] for name, value in given.items()}
        return step._fuse(part, keys[rows], noise=0.8, dropout=0.4).tokens

    whole = tokens(list(range(7)))
    assert torch.allclose(tokens([5, 0, 3]), whole[[5, 0, 3]], atol=1e-5)
    assert not torch.allclose(whole, model.fuse(given).tokens, atol=1e-3)


def test_keys_differ_between_samples_epochs_and_seeds() -> None:
    keys = {int(key) for seed in range(3) for epoch in range(4) for key in sample_keys(seed, [epoch] * 50, range(50))}
    assert len(keys) == 3 * 4 * 50


def test_noise_is_standard_normal_and_dropout_has_its_rate() -> None:
    keys = sample_keys(0, [0] * 500, range(500))
    noise = sample_noise(keys, (9, 3), torch.device("cpu"))
    assert noise.mean().abs() < 0.05 and (noise.std() - 1).abs() < 0.05
    assert (~sample_mask(keys, 3, 0.25)).float().mean() == pytest.approx(0.25, abs=0.04)
    assert annealed(0.3, 0, 10) == pytest.approx(0.3) and annealed(0.3, 10, 10) == pytest.approx(0)


def test_the_loss_is_transformers_own_mean_over_answer_tokens(toy: Any) -> None:
    model = toy.build()
    given = features(model, toy)
    step = TransferStep(model.fusion, model.decoder).eval()
    prompts, targets = ["what colour is it?", "is it black?"] * 3 + [""], ["red", "a green square"] * 3 + ["no"]
    with torch.no_grad():
        output = step(given, prompts, targets, keys=torch.zeros(7, dtype=torch.int64))
        total, count = 0.0, 0
        image = model.decoder.projector(model.fuse(given).tokens)
        embed = model.decoder.language_model.get_input_embeddings()
        for row, text in enumerate(model.decoder.encode(prompts, targets)):
            parts = [embed(torch.tensor(ids, dtype=torch.long)) for ids in (text.before, text.after, text.target)]
            inputs = torch.cat([parts[0], image[row], *parts[1:]])[None]
            ignored = inputs.shape[1] - len(text.target)
            labels = torch.tensor([[-100] * ignored + list(text.target)])
            loss = model.decoder.language_model(inputs_embeds=inputs, labels=labels).loss
            total += loss.item() * len(text.target)
            count += len(text.target)
    assert int(output.tokens) == count
    assert output.loss.item() / count == pytest.approx(total / count, rel=1e-4)


def test_gradients_of_parts_of_a_batch_add_up_to_those_of_the_whole(toy: Any) -> None:
    model = toy.build()
    given = features(model, toy)
    step = TransferStep(model.fusion, model.decoder)
    prompts = ["what colour is it?"] * 7
    targets = ["red", "green", "a green or a blue square", "no", "black", "a square above a square", "blue"]
    keys = sample_keys(0, [0] * 7, range(7))

    def gradient(groups: list[list[int]]) -> tuple[torch.Tensor, float]:
        step.zero_grad()
        outputs = []
        for rows in groups:
            part = {name: value[rows] for name, value in given.items()}
            texts = [prompts[i] for i in rows], [targets[i] for i in rows]
            outputs.append(step(part, *texts, keys=keys[rows], noise=0.5, dropout=0.3))
        tokens = sum(int(output.tokens) for output in outputs)
        loss = sum(output.loss for output in outputs) / tokens
        loss.backward()
        return torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None]), loss.item()

    whole, loss = gradient([list(range(7))])
    parts, again = gradient([[2, 5], [0, 1, 3, 4, 6]])
    assert loss == pytest.approx(again, rel=1e-5)
    assert F.cosine_similarity(whole, parts, dim=0) > 1 - 1e-6 and torch.allclose(whole, parts, atol=1e-5)


def test_gate_mass_is_summed_over_samples_and_tokens(toy: Any) -> None:
    model = toy.build()
    given = features(model, toy)
    output = TransferStep(model.fusion, model.decoder)(
        given, [""] * 7, ["no"] * 7, keys=torch.zeros(7, dtype=torch.int64)
    )
    assert output.mass.shape == (3,) and output.mass.sum().item() == pytest.approx(7 * 25 * 3, rel=1e-4)


def test_experts_that_every_sample_goes_without_get_a_gradient_of_zero_and_not_none(toy: Any) -> None:
    model = toy.build()
    step = TransferStep(model.fusion, model.decoder)
    given = features(model, toy)
    output = step(given, ["what?"] * 7, ["red"] * 7, keys=sample_keys(0, [0] * 7, range(7)), dropout=1.0)
    output.loss.backward()
    for name, parameter in model.fusion.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    assert model.decoder.projector.linear_1.weight.grad.any()


def test_the_mass_known_beforehand_is_that_of_the_step(toy: Any) -> None:
    model = toy.build()
    step = TransferStep(model.fusion, model.decoder).eval()
    given, keys = features(model, toy), sample_keys(5, [1] * 7, range(7))
    output = step(given, ["what?"] * 7, ["red"] * 7, keys=keys, noise=0.6, dropout=0.4)
    mass = step.mass(given["clip"], keys, noise=0.6, dropout=0.4)
    assert torch.equal(mass, output.mass.detach()) and not mass.requires_grad
    assert output.per_sample.sum().item() == pytest.approx(output.loss.item(), rel=1e-5)
