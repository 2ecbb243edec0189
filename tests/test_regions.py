"""A region expert goes through the whole life of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tove_core.checkpoint import load
from tove_core.config import TrainingConfig
from tove_core.contribution import contributions
from tove_core.errors import ConfigError
from tove_core.tower.text import TextVectors
from tove_core.training import fit

BOTH = ("toy-names", "toy-fine")


@pytest.fixture
def model(toy: Any) -> Any:
    model = toy.build(BOTH, clip=toy.reading_clip, seed=2)
    model.calibrate(toy.pictures(12))
    return model


def test_labels_lie_where_their_boxes_are(toy: Any, model: Any) -> None:
    tokens = model.encode(toy.pictures(4))["toy-names"]  # red, green, blue, black
    assert tokens.shape == (4, 25, 20 + 4)
    assert torch.equal(tokens[3], torch.zeros(25, 24)), "a black image has no regions"
    names = TextVectors(model.tower)(["red", "green", "blue"]) * 20**0.5
    grid = tokens[:3].unflatten(1, (5, 5))
    assert torch.equal(grid[:, 0, 3:], torch.zeros(3, 2, 24)), "no box reaches the upper right"
    inside = grid[:, 2, 0]
    torch.testing.assert_close(inside[:, :20], names * inside[:, 20:21], rtol=1e-4, atol=1e-5)
    assert (inside[:, 20] > 0.5).all()
    assert (inside[:, 21] < 0).all() and (grid[:, 2, 1, 21] > 0).all()


def test_features_do_not_depend_on_the_batch(toy: Any, model: Any) -> None:
    together = model.encode(toy.pictures(4))["toy-names"]
    alone = torch.cat([toy.build(BOTH, clip=toy.reading_clip, seed=2).encode(p)["toy-names"] for p in toy.pictures(4)])
    torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)


def test_training_moves_the_projector_of_regions_and_nothing_frozen(toy: Any, model: Any) -> None:
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    first = model.fusion.first["toy-names"].weight.detach().clone()
    settings = TrainingConfig.model_validate({"steps": 3, "batch_size": 5, "learning_rate": 1e-2, "warmup": 1})
    fit(model, toy.examples(model), settings, quiet=True)
    moved = (model.fusion.first["toy-names"].weight - first).abs().sum(0)
    # The text vectors' channels, coverage, position and area: all are read.
    assert moved.min() > 0
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if name in frozen)


def test_in_inference_mode_everything_is_said_as_outside_and_the_model_can_be_trained_after_it(
    toy: Any, model: Any
) -> None:
    shown, ask = toy.pictures(3), {"do_sample": True, "seed": 3}
    with torch.inference_mode():  # first, so that whatever is kept for later is kept from here
        inside = model.tokens(shown), model.gates(shown), model.caption(shown), model.answer(shown, "what?", **ask)
    assert torch.equal(inside[0], model.tokens(shown))
    assert all(torch.equal(inside[1][key], gates) for key, gates in model.gates(shown).items())
    assert inside[2:] == (model.caption(shown), model.answer(shown, "what?", **ask))
    model(shown).square().sum().backward()
    assert model.fusion.first["toy-names"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("full", [False, True])
def test_a_checkpoint_gives_the_same_tokens_bit_for_bit(toy: Any, model: Any, tmp_path: Any, full: bool) -> None:
    model.save_pretrained(tmp_path / "saved", full=full)
    again = load(tmp_path / "saved")
    assert torch.equal(again.tokens(toy.pictures(4)), model.tokens(toy.pictures(4)))
    assert list(again.state_dict()) == list(model.state_dict())


def test_a_detached_region_expert_leaves_and_embeds_nothing(toy: Any, model: Any, monkeypatch: Any) -> None:
    model.detach("toy-names")
    monkeypatch.setattr(type(model.tower), "_embed_text", None)
    assert "toy-names" not in model.encode(toy.pictures(3))
    assert model.prune() == ["toy-names"] and list(model.align) == ["toy-fine"]
    assert model.tokens(toy.pictures(3)).isfinite().all()


def test_the_fingerprint_of_features_holds_the_text_tower_where_labels_are_embedded(toy: Any, model: Any) -> None:
    from tove_core.data.fingerprint import canonical, difference
    from tove_core.training.binding import features_of, table_fingerprint
    from tove_core.training.examples import Examples

    mine = table_fingerprint(model)
    assert len(features_of(model, hashed=True)["toy-names"].decides["text"]) == 64
    plain = toy.build(["toy-fine"], clip=toy.reading_clip)
    assert all("text" not in one.decides for one in features_of(plain, hashed=True).values())
    table = Examples.cached(model, toy.samples()).table
    torch.testing.assert_close(
        table.gather([0])["toy-names"], model.encode(toy.pictures(1))["toy-names"], rtol=1e-3, atol=1e-3
    )
    assert difference(table.fingerprint, canonical(mine)) == ""
    with torch.no_grad():
        model.tower.model.token_embedding.weight += 1
    assert "text is" in difference(table.fingerprint, canonical(table_fingerprint(model)))


def test_contributions_are_measured(toy: Any, model: Any) -> None:
    measured = {found.expert: found for found in contributions(model, toy.examples(model))}
    assert measured["toy-names"].loss != 0


def test_a_clip_without_a_text_side_is_refused_before_anything_else_is_loaded(toy: Any, monkeypatch: Any) -> None:
    from tove_core.tower.open_clip import OpenClipTower

    monkeypatch.setattr(OpenClipTower, "text_width", None)
    with pytest.raises(ConfigError, match="'toy-names': output 'names' holds text and this CLIP has no text tower"):
        toy.build(BOTH)


def test_a_tokenizer_that_does_not_belong_to_the_tower_is_told(toy: Any) -> None:
    with pytest.raises(ConfigError, match="text tower knows 61"):
        toy.build(["toy-names"]).encode(toy.pictures(1))
