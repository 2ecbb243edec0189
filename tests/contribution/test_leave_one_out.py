from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.contribution import contributions
from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.loss import mean_loss
from tove_core.training.examples import Examples


@pytest.fixture(scope="module")
def trained(toy: Any) -> tuple[Any, Any]:
    from tove_core.config import TrainingConfig
    from tove_core.training import fit

    model = toy.build(seed=1)
    examples = toy.examples(model)
    fit(model, examples, TrainingConfig(steps=12, batch_size=8, learning_rate=1e-2, warmup=1), quiet=True)
    return model, examples


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_a_contribution_is_the_loss_its_absence_costs(trained: tuple[Any, Any], rule: Any) -> None:
    model, examples = trained
    full, tokens = mean_loss(model, examples), model.fuse(examples.features([0, 5])).tokens
    found = contributions(model, examples, rule=rule, batch_size=5)
    assert {one.expert for one in found} == set(model.experts)
    assert [one.loss for one in found] == sorted((one.loss for one in found), reverse=True)
    for one in found:
        model.detach(one.expert, rule)
        assert one.loss == pytest.approx(mean_loss(model, examples) - full, abs=1e-6)
        model.attach(one.expert)
    assert len({round(one.loss, 6) for one in found}) == 3
    assert model.fusion.off == {} and torch.equal(model.fuse(examples.features([0, 5])).tokens, tokens)


def test_rules_differ(trained: tuple[Any, Any]) -> None:
    model, examples = trained
    zero, anew = ({c.expert: c.loss for c in contributions(model, examples, rule=r)} for r in ("zero", "renormalise"))
    assert all(abs(zero[name] - anew[name]) > 1e-7 for name in zero)


def test_mass_and_norm_are_means_over_samples_and_tokens(trained: tuple[Any, Any]) -> None:
    model, examples = trained
    features = examples.features(range(len(examples)))
    gates = model.fuse(features).gates
    for one in contributions(model, examples):
        k = model.fusion.experts.index(one.expert)
        hidden = torch.nn.functional.gelu(model.fusion.first[one.expert](features[one.expert]))
        assert one.mass == pytest.approx(gates[..., k].mean().item(), rel=1e-5)
        assert one.norm == pytest.approx((gates[..., k] * hidden.norm(dim=-1)).mean().item(), rel=1e-4)


def test_experts_that_are_off_are_not_measured_and_stay_off(trained: tuple[Any, Any]) -> None:
    model, examples = trained
    model.detach("toy-wide", "renormalise")
    try:
        assert {one.expert for one in contributions(model, examples)} == {"toy-fine", "toy-whole"}
        assert model.fusion.off == {"toy-wide": "renormalise"}
    finally:
        model.attach("toy-wide")


def test_an_expert_comes_back_when_measuring_fails(trained: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from tove_core.contribution import leave_one_out

    model, examples = trained
    calls = []

    def failing(*_: Any, **__: Any) -> tuple[float, int]:
        calls.append(model.active_experts)
        if len(calls) == 3:
            raise RuntimeError
        return 0.0, 1

    monkeypatch.setattr(leave_one_out, "answer_loss", failing)
    with pytest.raises(RuntimeError):
        contributions(model, examples)
    assert [len(active) for active in calls] == [3, 2, 2] and model.fusion.off == {}


def test_no_more_samples_than_asked_for_are_seen_together(
    trained: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = trained
    seen, shown = [], Examples.shown

    def counted(self: Examples, indices: Any, *deployed: bool) -> Any:
        seen.append(len(indices))
        return shown(self, indices, *deployed)

    monkeypatch.setattr(Examples, "shown", counted)
    contributions(model, examples, batch_size=5)
    assert seen == [5, 5, 2], "each image once"


def test_features_that_are_kept_nowhere_give_the_same_and_unreadable_images_are_left_out(
    trained: tuple[Any, Any], toy: Any, tmp_path: Path
) -> None:
    model, _ = trained
    samples = toy.samples()
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    torn = [*samples[:5], replace(samples[5], image=tmp_path / "torn.png"), *samples[6:]]
    live = Examples(model, torn, max_broken=0.1, workers=2)
    with pytest.warns(UserWarning, match=r"1 of 12 images so far are left out"):
        found = {one.expert: one for one in contributions(model, live, batch_size=4)}
    assert live.table is None and live.reader is None and not live._seen
    for one in contributions(model, Examples(model, [*samples[:5], *samples[6:]]), batch_size=4):
        assert found[one.expert].loss == pytest.approx(one.loss, abs=1e-5)
        assert found[one.expert].mass == pytest.approx(one.mass, rel=1e-5)


def test_samples_too_long_for_the_language_model_are_left_out_before_anything_is_computed(
    trained: tuple[Any, Any], toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = trained
    samples = toy.samples()
    samples[7] = replace(samples[7], targets=("black " * 200,))
    monkeypatch.setattr(model.decoder.language_model.config, "max_position_embeddings", 100)
    few = Examples(model, [*samples[:7], *samples[8:]])
    with pytest.warns(UserWarning, match=r"sample 's7' takes \d+ positions, more than the 100 .* are left out"):
        found = contributions(model, Examples(model, samples, max_broken=0.1))
    for one, other in zip(found, contributions(model, few), strict=True):
        assert one.expert == other.expert and one.loss == pytest.approx(other.loss, abs=1e-6)
    monkeypatch.setattr(model, "encode", None)
    with pytest.raises(DataError, match="1 of 12 samples cannot be used"):
        contributions(model, Examples(model, samples))


def test_fusions_without_a_gate_have_a_loss_alone(toy: Any) -> None:
    model = toy.build(fusion="concat")
    found = contributions(model, toy.examples(model))
    assert all(one.mass is None and one.norm is None for one in found) and len(found) == 3
    with pytest.raises(ConfigError, match="no softmax"):
        contributions(model, toy.examples(model), rule="renormalise")
    plain = toy.build([])
    assert contributions(plain, toy.examples(plain)) == []
