from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import ToveModel
from tove_core.config import TrainingConfig
from tove_core.contribution import contributions
from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.training import fit

FEW = TrainingConfig(steps=5, batch_size=5, learning_rate=0.03, warmup=1)


@pytest.fixture
def trained(toy: Any) -> Any:
    """A hub of two experts after a few steps."""
    model = toy.build(["toy-fine", "toy-wide"], decoder={"train": "all"}, seed=3)
    fit(model, toy.examples(model), FEW, quiet=True)
    return model


def grown(model: Any, toy: Any, *names: str) -> Any:
    for name in names:
        model.add_expert(name, images=toy.pictures(5))
    fit(model, toy.examples(model), FEW, quiet=True, only=names)
    return model


def state(model: Any) -> dict[str, torch.Tensor]:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_joining_changes_no_token_and_nothing_that_is_said(toy: Any, trained: Any) -> None:
    tokens, said = trained.tokens(toy.pictures()), trained.caption(toy.pictures())
    before = state(trained)
    trained.add_expert("toy-whole")
    assert trained.active_experts == ["toy-fine", "toy-wide", "toy-whole"]
    assert torch.equal(trained.tokens(toy.pictures()), tokens) and trained.caption(toy.pictures()) == said
    after = state(trained)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(p.requires_grad for p in trained.experts["toy-whole"].parameters())


def test_training_it_alone_leaves_every_other_tensor_bit_for_bit(toy: Any, trained: Any) -> None:
    trained.add_expert("toy-whole")
    before, trainable = state(trained), [n for n, p in trained.named_parameters() if p.requires_grad]
    fit(trained, toy.examples(trained), FEW, quiet=True, only=["toy-whole"])
    after = state(trained)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    own = {f"fusion.{place}.toy-whole.{p}" for place in ("first", "gate.own") for p in ("weight", "bias")}
    assert moved == own
    assert [n for n, p in trained.named_parameters() if p.requires_grad] == trainable, "all may be trained again"


def test_it_learns_beside_the_old_gates_as_they_are_whatever_temperature_they_were_trained_from(toy: Any) -> None:
    gate = {"hidden": 6, "temperature_start": 4.0}
    model = toy.build(["toy-fine", "toy-wide"], fusion={"kind": "gate", "gate": gate})
    fit(model, toy.examples(model), FEW, quiet=True)
    model.add_expert("toy-whole")
    features, apart = model.encode(toy.pictures()), []
    old = model.fuse(features).gates

    def compare(step: int) -> None:
        apart.append((model.fuse(features).gates - old)[..., :2].abs().max().item())

    fit(model, toy.examples(model), FEW, quiet=True, only=["toy-whole"], after_step=compare)
    assert apart == [0.0] * FEW.steps


def test_statistics_of_a_new_expert_are_measured_as_calibrating_would(toy: Any) -> None:
    whole = toy.build(["toy-whole", "toy-fine"], decoder=None)
    whole.calibrate(toy.pictures(7))
    model = toy.build(["toy-whole"], decoder=None)
    model.calibrate(toy.pictures(7))
    second = model.fusion.second.weight.clone()
    with pytest.raises(ConfigError, match="'toy-fine' is normalised by statistics of its own; give images"):
        model.add_expert("toy-fine")
    assert list(model.experts) == model.fusion.experts == ["toy-whole"]
    model.add_expert("toy-fine", images=toy.pictures(7))
    for name, buffer in whole.align["toy-fine"].named_buffers():
        assert torch.equal(model.align["toy-fine"].get_buffer(name), buffer)
    assert torch.equal(model.fusion.second.weight, second), "the shared linear is not calibrated again"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("weights", ["pinned", "random"])
def test_a_grown_model_saved_and_loaded_is_the_same(toy: Any, tmp_path: Path, full: bool, weights: str) -> None:
    model = toy.build(["toy-wide"], weights=weights, seed=4)
    fit(model, toy.examples(model), FEW, quiet=True)
    grown(model, toy, "toy-fine", "toy-whole:large")
    loaded = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "it", full=full))
    assert torch.equal(loaded.tokens(toy.pictures()), model.tokens(toy.pictures()))
    assert loaded.config == model.config and loaded.provenance == model.provenance
    assert [expert.gate for expert in loaded.config.experts] == ["shared", "own", "own"]
    assert {name: torch.equal(t, state(loaded)[name]) for name, t in state(model).items()} == dict.fromkeys(
        state(model), True
    )
    again = grown(loaded, toy, "toy-whole")
    assert again.active_experts == ["toy-wide", "toy-fine", "toy-whole:large", "toy-whole"]


def test_growths_one_after_another_each_start_from_the_model_before(toy: Any) -> None:
    model = toy.build(["toy-wide"])
    fit(model, toy.examples(model), FEW, quiet=True)
    tokens = [model.tokens(toy.pictures())]
    for name in ("toy-fine", "toy-whole"):
        model.add_expert(name, images=toy.pictures(5))
        assert torch.equal(model.tokens(toy.pictures()), tokens[-1])
        fit(model, toy.examples(model), FEW, quiet=True, only=[name])
        tokens.append(model.tokens(toy.pictures()))
        assert not torch.equal(tokens[-1], tokens[-2])
    for name, wanted in (("toy-whole", tokens[1]), ("toy-fine", tokens[0])):
        model.detach(name)
        assert torch.equal(model.tokens(toy.pictures()), wanted)


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_detached_pruned_saved_and_loaded_it_is_the_old_model_again(
    toy: Any, trained: Any, tmp_path: Path, rule: str
) -> None:
    tokens, provenance = trained.tokens(toy.pictures()), trained.provenance
    grown(trained, toy, "toy-whole")
    assert trained.provenance.experts["toy-whole"].distribution == "toy-experts"
    trained.detach("toy-whole", rule)
    trained.prune()
    loaded = ToveModel.from_pretrained(trained.save_pretrained(tmp_path / "it"))
    assert torch.equal(loaded.tokens(toy.pictures()), tokens) and loaded.provenance == provenance


def test_an_expert_that_left_a_ghost_can_come_back(toy: Any, trained: Any, tmp_path: Path) -> None:
    trained.detach("toy-wide", "zero")
    trained.prune()
    tokens = trained.tokens(toy.pictures())
    trained.add_expert("toy-wide")
    assert torch.equal(trained.tokens(toy.pictures()), tokens)
    fit(trained, toy.examples(trained), FEW, quiet=True, only=["toy-wide"])
    loaded = ToveModel.from_pretrained(trained.save_pretrained(tmp_path / "it"))
    assert loaded.fusion.ghosts == ["toy-wide"] and loaded.active_experts == ["toy-fine", "toy-wide"]
    assert torch.equal(loaded.tokens(toy.pictures()), trained.tokens(toy.pictures()))


def test_gates_and_contributions_know_the_new_expert(toy: Any, trained: Any) -> None:
    grown(trained, toy, "toy-whole")
    gates = trained.gates(toy.pictures())
    assert list(gates) == ["toy-fine", "toy-wide", "toy-whole"]
    torch.testing.assert_close(gates["toy-fine"] + gates["toy-wide"], torch.full((3, 5, 5), 2.0))
    assert gates["toy-whole"].std() > 0
    found = {one.expert: one for one in contributions(trained, toy.examples(trained))}
    assert found["toy-whole"].norm > 0 and found["toy-whole"].loss != 0


def test_a_grown_model_is_merged_like_any_other(toy: Any, trained: Any) -> None:
    from tove_core.config import MergeConfig
    from tove_core.merging import merge

    grown(trained, toy, "toy-whole")
    student = merge(trained, toy.examples(trained), MergeConfig(steps=2, batch_size=4), quiet=True)
    assert student.fusion is None and student.tokens(toy.pictures()).shape == (3, 25, 32)


@pytest.mark.parametrize("kind", ["uniform", "concat"])
def test_fusions_without_a_gate_grow_too(toy: Any, kind: str, tmp_path: Path) -> None:
    model = toy.build(["toy-wide"], fusion=kind)
    fit(model, toy.examples(model), FEW, quiet=True)
    tokens, before = model.tokens(toy.pictures()), state(model)
    model.add_expert("toy-whole")
    assert torch.equal(model.tokens(toy.pictures()), tokens)
    fit(model, toy.examples(model), FEW, quiet=True, only=["toy-whole"])
    assert all(torch.equal(state(model)[name], tensor) for name, tensor in before.items())
    assert not torch.equal(model.tokens(toy.pictures()), tokens)
    again = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "grown"))
    assert torch.equal(again.tokens(toy.pictures()), model.tokens(toy.pictures()))
    assert {expert.gate for expert in again.config.experts} == {"shared"}, "there is no gate to own"


def test_an_expert_of_a_configuration_may_have_a_gate_of_its_own_from_the_start(toy: Any) -> None:
    model = toy.build(["toy-wide", {"name": "toy-whole", "gate": "own"}])
    assert model.fusion.apart == ["toy-whole"]
    first = model.fusion.first["toy-whole"].weight
    assert first.abs().max() > 0, "only growth starts from zero"
    fit(model, toy.examples(model), FEW, quiet=True)
    assert model.gates(toy.pictures())["toy-wide"].eq(1).all(), "alone in its softmax"


def test_growth_that_cannot_be_says_why(toy: Any, trained: Any) -> None:
    for name, error, wanted in [
        ("toy-fine", ConfigError, "holds an expert 'toy-fine' already"),
        ("toy-fin", UnknownExpertError, "toy-fine"),
        ("", ConfigError, "cannot be called ''"),
    ]:
        with pytest.raises(error, match=wanted):
            trained.add_expert(name)
    with pytest.raises(ConfigError, match="no fusion for 'toy-fine' to join"):
        toy.build([], decoder=None).add_expert("toy-fine")
    with pytest.raises(ConfigError, match="'clip-mlp' uses no experts"):
        toy.build([], fusion="clip-mlp", decoder=None).add_expert("toy-fine")
    examples = toy.examples(trained)
    for only, wanted in (([], "at least one expert"), (["toy-none"], "no expert 'toy-none'")):
        with pytest.raises((ConfigError, UnknownExpertError), match=wanted):
            fit(trained, examples, FEW, quiet=True, only=only)
    assert trained.active_experts == ["toy-fine", "toy-wide"]


def test_images_to_join_on_come_in_every_form_that_calibration_takes(toy: Any) -> None:
    pixels = torch.randint(0, 256, (3, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    found = []
    for images in (list(pixels), pixels, arrays, iter(list(pixels))):
        model = toy.build(["toy-wide"], decoder=None, seed=3)
        model.calibrate(toy.pictures(3))
        model.add_expert("toy-fine", images=images)
        found.append(model.align["toy-fine"].get_buffer("depth-std"))
    assert all(torch.equal(one, found[0]) for one in found)
    model = toy.build(["toy-wide"], decoder=None, seed=3)
    model.calibrate(toy.pictures(3))
    for nothing in ((), iter([]), pixels[:0]):
        with pytest.raises(ConfigError, match="give images to measure them on"):
            model.add_expert("toy-fine", images=nothing)
