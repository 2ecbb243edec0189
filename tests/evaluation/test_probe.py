from __future__ import annotations

from typing import Any

import pytest
import torch

from tove_core.errors import ConfigError
from tove_core.evaluation import probe as probing
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.predict import predict
from tove_core.evaluation.probe import probe, say
from tove_core.training.examples import Examples

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")


@pytest.fixture(scope="module")
def model(toy: Any) -> Any:
    made = toy.build()
    toy.examples(made)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(8)
        for parameter in made.fusion.gate.parameters():  # gates are equal before training
            parameter.add_(torch.randn_like(parameter))
    return made


def test_every_state_is_what_detaching_by_hand_gives_and_the_model_is_as_before(toy: Any, model: Any) -> None:
    samples = toy.samples()
    found = probe(model, samples, bare=True, batch_size=5)
    assert model.active_experts == list(toy.experts) == list(found.without)
    examples = Examples.cached(model, samples)
    states = {(): found.full, tuple(toy.experts): found.bare} | {(n,): one for n, one in found.without.items()}
    for off, answers in states.items():
        for name in off:
            model.detach(name)
        assert answers.said == predict(model, examples), off
        mean = sum(answers.losses.values()) / sum(answers.tokens.values())
        assert mean == pytest.approx(mean_loss(model, examples), abs=1e-5), off
        for name in off:
            model.attach(name)
    assert found.samples == samples
    assert len({round(sum(one.losses.values()), 4) for one in states.values()}) == 5, "states differ"


def test_gates_are_the_means_over_a_samples_tokens(toy: Any, model: Any) -> None:
    samples = toy.samples()
    found = probe(model, samples, batch_size=3)
    maps = model.gates([sample.image for sample in samples])
    for name, grid in maps.items():
        means = torch.tensor([found.gates[name][sample.id] for sample in samples])
        assert torch.allclose(means, grid.mean((1, 2)), atol=2e-3)
    assert sum(found.gates[name][samples[0].id] for name in toy.experts) == pytest.approx(3, abs=1e-4)


def test_blocks_do_not_change_what_is_found(toy: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probe(model, toy.samples())
    monkeypatch.setattr(probing, "BLOCK", 5)
    parts = probe(model, toy.samples())
    assert parts.full.said == whole.full.said and parts.samples == whole.samples
    assert parts.full.losses == pytest.approx(whole.full.losses, abs=1e-4)
    assert say(model, toy.samples()) == whole.full.said


def test_a_fusion_without_a_gate_has_none_and_the_rule_is_obeyed(toy: Any, model: Any) -> None:
    plain = toy.build(["toy-fine"], fusion={"kind": "uniform"})
    toy.examples(plain)
    assert probe(plain, toy.samples()).gates == {}
    with pytest.raises(ConfigError, match="no softmax to renormalise"):
        probe(plain, toy.samples(), rule="renormalise")
    assert plain.active_experts == ["toy-fine"]
    zero, again = (probe(model, toy.samples()[:3], rule=rule).without["toy-wide"] for rule in ("zero", "renormalise"))
    assert zero.losses != pytest.approx(again.losses, abs=1e-6)
    with pytest.raises(ConfigError, match="cannot answer"):
        probe(toy.build(decoder=None), toy.samples())
