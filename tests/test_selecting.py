from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import ToveModel
from tove_core.checkpoint import selector_of, start_from
from tove_core.config import TrainingConfig
from tove_core.contribution import contributions
from tove_core.errors import ConfigError, DataError, ImageError
from tove_core.evaluation.collect import blocks
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.predict import predict
from tove_core.fusion.selector import Selection, worth
from tove_core.model import CLIP
from tove_core.selecting import every_expert, fuse_deployed
from tove_core.training.examples import Examples
from tove_core.training.loop import fit

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")
COSTS = {"toy-fine": 0.5, "toy-wide": 0.3, "toy-whole": 0.2}


def selecting(toy: Any, experts: Any = None, **options: Any) -> Any:
    """A calibrated model that chooses about half of the pairs of its experts and the toy images."""
    model = toy.build(list(experts or COSTS), seed=1, **options)
    model.calibrate(toy.pictures(5))
    model.trained = True
    selector = selector_of(model, Selection(budget=0.5, price=0, costs=COSTS, hidden=5))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        for row in selector.rows.values():
            row.weight.normal_()  # type: ignore[union-attr,operator]
        values = selector(model.encode(toy.pictures(12), only=[CLIP])[CLIP]).values
        for k, row in enumerate(selector.rows.values()):
            row.bias.sub_(values[:, k].median())  # type: ignore[union-attr,operator]
    model.selector = selector
    return model


def seen_by(model: Any) -> dict[str, list[int]]:
    """How many images each expert sees at each of its calls, from now on."""
    found: dict[str, list[int]] = {name: [] for name in model.experts}
    for name, expert in model.experts.items():
        expert.module.register_forward_pre_hook(lambda _, given, name=name: found[name].append(len(given[0])))
    return found


def test_each_expert_runs_on_its_images_alone_and_tokens_are_those_of_the_mask(toy: Any) -> None:
    model, pictures = selecting(toy), toy.pictures(12)
    chosen = model.select(pictures)
    assert set(chosen) == set(COSTS) and all(0 < int(own.sum()) < 12 for own in chosen.values())
    mask = torch.stack([chosen[name] for name in model.fusion.experts], 1)
    wanted = model.fuse(model.encode(pictures), mask=mask)
    seen = seen_by(model)
    found = model.tokens(pictures)
    assert seen == {name: [int(chosen[name].sum())] for name in COSTS}, "one call each, with its images alone"
    torch.testing.assert_close(found, wanted.tokens, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(pictures), found, rtol=1e-5, atol=1e-6)
    gates = model.gates(pictures)
    for k, name in enumerate(model.fusion.experts):
        torch.testing.assert_close(gates[name].flatten(1), wanted.gates[..., k], rtol=1e-5, atol=1e-6)
        assert not gates[name][~chosen[name]].any() and gates[name][chosen[name]].all()


def test_choosing_runs_no_expert_and_images_that_choose_nothing_are_clips_own_bit_for_bit(toy: Any) -> None:
    model, pictures = selecting(toy), toy.pictures(12)
    seen = seen_by(model)
    chosen = model.select(pictures)
    assert not any(seen.values())
    model.selector.selection = model.selector.selection.model_copy(update={"price": 1e9})
    tokens = model.tokens(pictures)
    assert not any(seen.values()) and not any(own.any() for own in model.select(pictures).values())
    assert torch.equal(tokens, model.encode(pictures, only=[CLIP])[CLIP])
    assert any(own.any() for own in chosen.values())


def test_selecting_can_be_switched_off_and_captions_are_of_the_tokens(toy: Any) -> None:
    model, pictures = selecting(toy), toy.pictures(7)
    off = toy.build(list(COSTS), seed=1)
    off.calibrate(toy.pictures(5))
    prompt = model.decoder.config.caption_prompt
    assert model.caption(pictures) == model.generate(model.tokens(pictures), [prompt] * 7)
    assert not torch.equal(model.tokens(pictures), off.tokens(pictures))
    model.selecting = False
    assert not model.selects and torch.equal(model.tokens(pictures), off.tokens(pictures))
    with pytest.raises(ConfigError, match="has no selector"):
        off.select(pictures)
    with pytest.raises(ImageError, match="no images"):
        selecting(toy).tokens([])


def test_a_detached_expert_is_never_chosen_and_one_that_is_pruned_leaves_its_row(toy: Any) -> None:
    model, pictures = selecting(toy), toy.pictures(12)
    before = model.select(pictures)
    model.detach("toy-fine")
    assert set(model.select(pictures)) == {"toy-wide", "toy-whole"}
    seen, tokens = seen_by(model), model.tokens(pictures)
    assert seen["toy-fine"] == [] and seen["toy-wide"]
    model.attach("toy-fine")
    assert torch.equal(model.select(pictures)["toy-fine"], before["toy-fine"])
    model.detach("toy-fine")
    model.prune()
    assert model.selector.experts == ["toy-wide", "toy-whole"] and torch.equal(model.tokens(pictures), tokens)
    for name in ("toy-wide", "toy-whole"):
        model.detach(name)
    assert not model.selects
    model.prune()
    assert model.selector is None


def test_an_expert_that_joins_runs_on_every_image_and_this_is_said(toy: Any) -> None:
    model, pictures = selecting(toy), toy.pictures(12)
    before = model.tokens(pictures)
    with pytest.warns(UserWarning, match="does not know 'apart', which therefore runs on every image"):
        model.add_expert({"name": "toy-fine", "alias": "apart"}, images=pictures[:2])
    seen = seen_by(model)
    torch.testing.assert_close(model.tokens(pictures), before, rtol=1e-5, atol=1e-6)
    assert seen["apart"] == [12] and model.select(pictures)["apart"].all()


@pytest.mark.parametrize("full", [False, True])
def test_a_checkpoint_selects_as_the_model_did(toy: Any, tmp_path: Path, full: bool) -> None:
    model, pictures = selecting(toy), toy.pictures(12)
    again = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "it", full=full))
    assert again.selector is not None and again.selector.selection == model.selector.selection
    assert torch.equal(again.tokens(pictures), model.tokens(pictures)) and again.selects
    assert not any(p.requires_grad for p in again.selector.parameters())


def test_a_checkpoint_without_a_selector_says_nothing_of_one(toy: Any, tmp_path: Path) -> None:
    model = selecting(toy)
    model.selector = None
    folder = model.save_pretrained(tmp_path / "it")
    assert "selection" not in (folder / "tove.json").read_text()
    assert ToveModel.from_pretrained(folder).selector is None


def test_samples_of_several_images_are_fused_by_a_choice_for_each(toy: Any) -> None:
    model, pictures = selecting(toy), toy.pictures(12)
    samples = [replace(one, image=(pictures[i], pictures[-1 - i])) for i, one in enumerate(toy.samples()[:6])]
    fused = fuse_deployed(model, Examples(model, samples).features(range(6)))
    both = [model.tokens(pictures[:6]), model.tokens(pictures[:-7:-1])]
    torch.testing.assert_close(fused.tokens, torch.cat(both, 1), rtol=1e-5, atol=1e-6)
    assert fused.gates is not None and fused.gates.shape == (6, 50, 3)


def test_what_is_scored_is_what_is_deployed(toy: Any) -> None:
    model = selecting(toy)
    examples = Examples(model, toy.samples())
    said = predict(model, examples, batch_size=12)
    captions = [one for one in toy.samples() if one.prompt is None]
    assert [said[one.id] for one in captions] == model.caption([one.image for one in captions])
    loss = mean_loss(model, examples)
    model.selecting = False
    assert mean_loss(model, examples) != pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_runs_the_chosen_experts_alone(toy: Any, workers: int) -> None:
    model = selecting(toy)
    # No image is on the border, where v in half precision may choose otherwise.
    model.selector.selection = model.selector.selection.model_copy(update={"price": 0.01})
    samples = [replace(one, image=toy.pictures(6)[i % 6]) for i, one in enumerate(toy.samples())]
    chosen = {name: int(own.sum()) for name, own in model.select(toy.pictures(6)).items()}
    assert 0 < sum(chosen.values()) < 18
    wanted, seen = predict(model, Examples.cached(model, samples)), seen_by(model)
    kept = Examples.cached(model, samples, deployed=True, workers=workers)
    assert {name: sum(calls) for name, calls in seen.items()} == chosen, "each image once"
    assert predict(model, kept) == predict(model, Examples(model, samples, workers=workers)) == wanted
    assert mean_loss(model, kept) == pytest.approx(mean_loss(model, Examples(model, samples)), abs=1e-3)
    assert {name: sum(calls) for name, calls in seen.items()} == {name: 3 * own for name, own in chosen.items()}
    seen = seen_by(model)
    assert [len(one) for one in blocks(model, samples, 0.1, True, quiet=True, block=6)] == [6, 6]
    assert {name: sum(calls) for name, calls in seen.items()} == chosen


def test_features_of_chosen_experts_serve_nothing_else(toy: Any) -> None:
    model = selecting(toy)
    kept = Examples.cached(model, toy.samples(), deployed=True)
    refusal = "features are of the experts that were chosen"
    with pytest.raises(DataError, match=refusal), pytest.warns(UserWarning, match="contributions"):
        contributions(model, kept)
    with pytest.raises(DataError, match=refusal):
        kept.features([0])
    model.selecting = False
    with pytest.raises(DataError, match=refusal):
        mean_loss(model, kept)
    model.selecting = True
    model.selector.selection = model.selector.selection.model_copy(update={"price": 0.02})
    with pytest.raises(DataError, match=refusal):
        predict(model, kept)


def test_contributions_are_those_of_every_expert_and_this_is_said(toy: Any) -> None:
    model = selecting(toy)
    examples = Examples(model, toy.samples())
    with pytest.warns(UserWarning, match="contributions are measured with every expert on every image"):
        found = contributions(model, examples)
    assert model.selects
    model.selecting = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert contributions(model, examples) == found


def test_selecting_comes_back_after_an_error(toy: Any) -> None:
    model = selecting(toy)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError), every_expert(model, "it fails"):
        assert not model.selects
        raise RuntimeError
    assert model.selects


def test_training_takes_every_expert_and_leaves_the_selector_behind(toy: Any, tmp_path: Path) -> None:
    model = selecting(toy)
    folder = model.save_pretrained(tmp_path / "it")
    begun = toy.build(list(COSTS), seed=1)
    with pytest.warns(UserWarning, match="selects experts, which the new run does not"):
        start_from(begun, folder)
    assert begun.selector is None and begun.trained
    with pytest.warns(UserWarning, match="will select experts no more"):
        fit(model, Examples.cached(model, toy.samples()), TrainingConfig(steps=1, batch_size=4, warmup=1), quiet=True)
    assert model.selector is None


def test_an_expert_that_joins_is_trained_and_the_selector_stays(toy: Any) -> None:
    model = selecting(toy)
    with pytest.warns(UserWarning, match="does not know 'apart'"):
        model.add_expert({"name": "toy-fine", "alias": "apart"}, images=toy.pictures(2))
    examples = Examples.cached(model, toy.samples())
    fit(model, examples, TrainingConfig(steps=1, batch_size=4, warmup=1), quiet=True, only=["apart"])
    assert model.selects and model.selector.experts == list(COSTS)


def test_tokens_do_not_depend_on_how_images_are_given(toy: Any) -> None:
    model, pictures = selecting(toy), toy.pictures(5)
    prepare = model.preprocessor()
    torch.testing.assert_close(model([prepare.see(one) for one in pictures]), model.tokens(pictures))
    values = model.selector(model.encode(pictures, only=[CLIP])[CLIP]).values
    assert worth(values, COSTS).shape == (5, 3)
