from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.errors import ConfigError, DataError
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
    shared = [replace(one, image=toy.pictures(4)[i % 4]) for i, one in enumerate(toy.samples())]
    assert probe(model, shared).samples == shared, "answered image by image"
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


def test_a_sample_with_too_long_an_answer_is_left_out_and_named(
    toy: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = toy.samples()
    samples[7] = replace(samples[7], targets=("black " * 200,))
    monkeypatch.setattr(model.decoder.language_model.config, "max_position_embeddings", 100)
    with pytest.warns(UserWarning, match=r"sample 's7' takes \d+ positions, more than the 100 "):
        found = probe(model, samples, max_broken=0.1)
    assert [one.id for one in found.samples] == [f"s{n}" for n in range(12) if n != 7] == sorted_ids(found.full.losses)
    assert found.without["toy-fine"].said.keys() == found.full.said.keys() == found.full.losses.keys()
    with pytest.raises(DataError, match="1 of 12 samples cannot be used"):
        probe(model, samples, max_broken=0.05)


def sorted_ids(of: dict[str, float]) -> list[str]:
    return sorted(of, key=lambda name: int(name[1:]))


def test_broken_images_are_counted_over_all_blocks(
    toy: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = toy.samples()
    (tmp_path / "no.png").write_text("no image")
    samples[4] = replace(samples[4], image=str(tmp_path / "no.png"))
    monkeypatch.setattr(probing, "BLOCK", 3)
    with pytest.warns(UserWarning, match="no.png"):
        assert len(probe(model, samples, max_broken=0.1).samples) == 11, "1 of 12, though 1 of 3 of its block"
    with pytest.warns(UserWarning, match="no.png"):
        assert len(say(model, samples, max_broken=0.1)) == 11
    with pytest.warns(UserWarning, match="no.png"), pytest.raises(DataError, match="1 of 12 images cannot be used"):
        say(model, samples, max_broken=0.05)
