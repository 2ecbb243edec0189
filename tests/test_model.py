from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.errors import ConfigError, DataError, ImageError, ToveError, UnknownExpertError

RULES = ["zero", "renormalise"]


@pytest.fixture
def model(toy: Any) -> Any:
    """A calibrated model whose gates differ from each other."""
    return uneven(toy.build(seed=3), toy)


def uneven(model: Any, toy: Any) -> Any:
    model.calibrate(toy.pictures(4))
    if getattr(model.fusion, "gate", None) is not None:
        draw = torch.Generator().manual_seed(8)
        with torch.no_grad():
            for row in model.fusion.gate.rows.values():
                row.weight.copy_(torch.randn(row.weight.shape, generator=draw))
                row.bias.copy_(torch.randn(row.bias.shape, generator=draw))
    return model


def reference(model: Any, features: dict, kept: list[str], counted: list[str], scale: int) -> torch.Tensor:
    """v + W_s · Σ_k g_k · GELU(W_k u_k + b_k), written out."""
    fusion, v = model.fusion, features["clip"]
    hidden = torch.nn.functional.gelu(fusion.gate.hidden(fusion.gate.norm(v)))
    logits = torch.cat([fusion.gate.rows[name](hidden) for name in counted], -1)
    gates = logits.softmax(-1) * scale
    out = v.clone()
    for name in kept:
        term = fusion.second(torch.nn.functional.gelu(fusion.first[name](features[name])))
        out = out + gates[..., counted.index(name), None] * term
    return out


def test_tokens_follow_the_formula_of_the_method(toy: Any, model: Any) -> None:
    features = model.encode(toy.pictures())
    names = list(toy.experts)
    assert torch.allclose(model.tokens(toy.pictures()), reference(model, features, names, names, 3), atol=1e-5)


def test_calibration_gives_the_residual_half_the_size_of_v_and_happens_once(toy: Any) -> None:
    model = toy.build(decoder=None)
    model.calibrate(toy.pictures(5))
    features = model.encode(toy.pictures(5))
    residual, v = model.tokens(toy.pictures(5)) - features["clip"], features["clip"]
    assert (residual.square().mean() / v.square().mean()).sqrt().item() == pytest.approx(0.5, rel=1e-4)
    before = model.fusion.second.weight.clone()
    model.calibrate(toy.pictures(2))
    assert torch.equal(before, model.fusion.second.weight)


def test_calibration_gives_fixed_maps_zero_mean_and_unit_spread(toy: Any) -> None:
    model = toy.build(["toy-fine"], decoder=None)
    model.calibrate(toy.pictures(7), batch_size=3)
    pixels = [model.encode([one])["toy-fine"] for one in toy.pictures(7)]
    channels = torch.cat(pixels).unflatten(-1, (3, 4)) if model.align["toy-fine"].width == 12 else None
    assert channels is not None
    # Resampling smooths, so the spread may only shrink.
    assert channels.mean((0, 1, 3)).abs().max() < 0.2 and 0.4 < channels.std((0, 1, 3)).min() < 1.1


def test_gates_are_maps_on_the_grid_that_add_up_to_the_number_of_experts(toy: Any, model: Any) -> None:
    gates = model.gates(toy.pictures())
    assert list(gates) == list(toy.experts)
    assert all(grid.shape == (3, 5, 5) for grid in gates.values())
    assert torch.allclose(sum(gates.values()), torch.full((3, 5, 5), 3.0), atol=1e-5)  # type: ignore[arg-type]
    assert max(grid.std().item() for grid in gates.values()) > 0.01


def test_gates_of_an_expert_that_is_off_are_zero_and_the_rule_decides_the_others(toy: Any, model: Any) -> None:
    full = model.gates(toy.pictures())
    model.detach("toy-wide", "zero")
    zero = model.gates(toy.pictures())
    assert not zero["toy-wide"].any() and torch.allclose(zero["toy-fine"], full["toy-fine"], atol=1e-6)
    model.detach("toy-wide", "renormalise")
    anew = model.gates(toy.pictures())
    assert not anew["toy-wide"].any()
    assert torch.allclose(anew["toy-fine"] + anew["toy-whole"], torch.full((3, 5, 5), 2.0), atol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "experts"), [("concat", ["toy-fine"]), ("gate", []), ("clip-mlp", []), ("gate", ["toy-fine"])]
)
def test_gates_are_refused_where_there_are_none(toy: Any, fusion: str, experts: list[str]) -> None:
    model = toy.build(experts, fusion=fusion, decoder=None)
    for name in experts if fusion == "gate" else []:
        model.detach(name)
    with pytest.raises(ConfigError, match="no gates"):
        model.gates(toy.pictures(1))


@pytest.mark.parametrize("fusion", ["gate", "uniform", "concat"])
def test_with_every_expert_off_tokens_are_clips_own_bit_for_bit(toy: Any, fusion: str) -> None:
    model = toy.build(fusion=fusion, decoder=None)
    own = toy.build([], decoder=None).tokens(toy.pictures())
    for name in toy.experts:
        model.detach(name)
    assert torch.equal(model.tokens(toy.pictures()), own)
    model.prune()
    assert not model.experts and torch.equal(model.tokens(toy.pictures()), own)


@pytest.mark.parametrize("rule", RULES)
def test_detaching_follows_its_rule_and_attaching_restores_every_bit(toy: Any, model: Any, rule: str) -> None:
    before, features = model.tokens(toy.pictures()), model.encode(toy.pictures())
    model.detach("toy-fine", rule)
    assert model.active_experts == ["toy-wide", "toy-whole"]
    kept = ["toy-wide", "toy-whole"]
    wanted = reference(model, features, kept, list(toy.experts) if rule == "zero" else kept, 3 if rule == "zero" else 2)
    assert torch.allclose(model.tokens(toy.pictures()), wanted, atol=1e-5)
    assert not torch.allclose(wanted, before, atol=1e-3)
    model.attach("toy-fine")
    assert torch.equal(model.tokens(toy.pictures()), before)


def test_a_detached_expert_does_not_run(toy: Any, model: Any) -> None:
    ran = []
    for name in toy.experts:
        model.experts[name].module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.detach("toy-wide")
    model.tokens(toy.pictures(1))
    assert ran == ["toy-fine", "toy-whole"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("full", [False, True])
def test_pruned_saved_and_loaded_is_the_full_model_with_that_expert_off(
    toy: Any, model: Any, rule: str, full: bool, tmp_path: Path
) -> None:
    from tove_core import ToveModel

    model.detach("toy-fine", rule)
    tokens, gates = model.tokens(toy.pictures()), model.gates(toy.pictures())
    assert model.prune() == ["toy-fine"]
    assert torch.equal(model.tokens(toy.pictures()), tokens)
    loaded = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "small", full=full))
    assert list(loaded.experts) == ["toy-wide", "toy-whole"] and "toy-fine" not in loaded.provenance.experts
    assert loaded.fusion.ghosts == (["toy-fine"] if rule == "zero" else [])
    assert torch.equal(loaded.tokens(toy.pictures()), tokens)
    for name, grid in loaded.gates(toy.pictures()).items():
        assert torch.equal(grid, gates[name])
    tensors = dict(loaded.named_parameters())
    assert not any(name.startswith(("fusion.first.toy-fine", "experts.toy-fine", "align.toy-fine")) for name in tensors)


def test_a_pruned_expert_cannot_be_attached(toy: Any, model: Any) -> None:
    model.detach("toy-fine")
    model.prune()
    with pytest.raises(UnknownExpertError, match="toy-wide, toy-whole"):
        model.attach("toy-fine")


@pytest.mark.parametrize(
    ("fusion", "name", "rule", "wanted"),
    [
        ("gate", "toy-none", None, "toy-fine, toy-wide"),
        ("gate", "toy-wide", "renormalize", "renormalise"),
        ("uniform", "toy-wide", "renormalise", "no softmax"),
    ],
)
def test_a_detachment_that_cannot_be_is_refused(toy: Any, fusion: str, name: str, rule: Any, wanted: str) -> None:
    model = toy.build(fusion=fusion, decoder=None)
    with pytest.raises(ToveError, match=wanted):
        model.detach(name, rule)
    assert model.active_experts == list(toy.experts)


def test_a_model_without_experts_has_none_to_switch(toy: Any) -> None:
    with pytest.raises(ConfigError, match="no experts"):
        toy.build([], decoder=None).detach("toy-fine")


def test_an_untrained_model_warns_once(toy: Any, model: Any) -> None:
    with pytest.warns(UserWarning, match="never trained"):
        model.caption(toy.pictures(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.caption(toy.pictures(1))
        other = toy.build()
        other.trained = True
        other.caption(toy.pictures(1))


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_answers_are_one_per_image_and_do_not_depend_on_the_batch(toy: Any, model: Any) -> None:
    asked = ["is it black?", "what colour is it? green, or a blue one?", "red?"]
    together = model.answer(toy.pictures(), asked)
    alone = [model.answer(image, question)[0] for image, question in zip(toy.pictures(), asked, strict=True)]
    assert together == alone and len(set(together)) > 1
    with pytest.raises(ConfigError, match="2 questions were given for 3 images"):
        model.answer(toy.pictures(), asked[:2])


@pytest.mark.filterwarnings("ignore:this model was never trained")
@pytest.mark.parametrize("size", [1, 2, 7])
def test_answers_do_not_depend_on_the_batch_size_which_bounds_what_is_seen_at_once(
    toy: Any, model: Any, size: int
) -> None:
    one, two, three, four, five = toy.pictures(5)
    shown = [one, [two, three], four, [five], [three, one, two], [four, five], two]
    asked = ["is it black?", "are both red?", "what colour?", "red?", "which of the three?", "green, or blue?", "it?"]
    whole = model.answer(shown, asked, batch_size=99)
    seen: list[int] = []
    hook = model.tower.register_forward_pre_hook(lambda _, pixels: seen.append(len(pixels[0])))
    try:
        assert model.answer(shown, asked, batch_size=size) == whole and len(set(whole)) > 1
        assert sum(seen) == 11 and max(seen) <= max(size, 3), "a list of three is seen together"
        seen.clear()
        assert model.caption(toy.pictures(5), batch_size=size) == model.caption(toy.pictures(5))
        assert seen[:-1] == {1: [1] * 5, 2: [2, 2, 1], 7: [5]}[size]
    finally:
        hook.remove()


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_drawn_answers_are_repeatable_and_differ_from_batch_to_batch(toy: Any, model: Any) -> None:
    drawn = {"do_sample": True, "temperature": 3.0, "seed": 5, "max_new_tokens": 9, "batch_size": 1}
    said = model.caption([toy.pictures(1)[0]] * 4, **drawn)
    assert said == model.caption([toy.pictures(1)[0]] * 4, **drawn) and len(set(said)) > 1


@pytest.mark.parametrize(("images", "size", "wanted"), [([], 4, "no image was given"), (["x"], 0, "batch_size is 0")])
def test_a_batch_that_cannot_be_is_refused(model: Any, images: list[str], size: int, wanted: str) -> None:
    with pytest.raises(ToveError, match=wanted):
        model.answer(images, "is it black?", batch_size=size)


def test_images_may_be_files_pixels_or_a_batch(toy: Any, model: Any) -> None:
    from tove_core.hub.images import read_image

    pixels = [read_image(image) for image in toy.pictures(2)]
    tokens = model.tokens(toy.pictures(2))
    assert torch.equal(model.tokens(pixels), tokens) and torch.equal(model.tokens(torch.stack(pixels)), tokens)
    assert torch.equal(model.tokens(pixels[1]), model.tokens([pixels[1]]))
    array = torch.stack(pixels).permute(0, 2, 3, 1).numpy()  # [B, H, W, 3]
    assert torch.equal(model.tokens(array), tokens) and torch.equal(model.tokens(array[1]), model.tokens(pixels[1]))
    with pytest.raises(ImageError):
        model.tokens([])


def test_parameters_are_counted_part_by_part(toy: Any) -> None:
    model = toy.build()
    report = model.parameters_report()
    assert report.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert report.trained + report.frozen == sum(p.numel() for p in model.parameters())
    wide = next(row for row in report.rows if row.part == "expert toy-wide")
    assert (wide.trained, wide.frozen) == (0, 33 * 3 * 64 + 33)
    assert str(report).splitlines()[-1].split()[0] == "total"


def test_an_expert_cannot_take_the_name_of_clips_own_tokens(toy: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be called 'clip' beside CLIP itself; ask for it with an alias"):
        toy.build([{"name": "toy-fine", "alias": "clip"}], decoder=None)


def test_experts_that_are_off_are_measured_too(toy: Any) -> None:
    whole, apart = toy.build(decoder=None), toy.build(decoder=None)
    fixed = next(key for key in apart.experts if apart.align[key].needs_measuring)
    whole.calibrate(toy.pictures(5))
    apart.detach(fixed)
    apart.calibrate(toy.pictures(5))
    apart.attach(fixed)
    buffers = dict(apart.align[fixed].named_buffers())
    assert buffers and all(torch.equal(value, whole.align[fixed].get_buffer(name)) for name, value in buffers.items())


@pytest.mark.parametrize("given", ["one", "iterator", "array"])
def test_calibration_takes_images_as_everything_else_does(toy: Any, given: str) -> None:
    model, listed = toy.build(decoder=None), toy.build(decoder=None)
    pixels = torch.rand(3, 3, 21, 19, generator=torch.Generator().manual_seed(1))
    images: dict[str, Any] = {"one": toy.pictures(1)[0], "iterator": iter(toy.pictures(3)), "array": pixels}
    same = {"one": toy.pictures(1), "iterator": toy.pictures(3), "array": list(pixels)}
    model.calibrate(images[given])
    listed.calibrate(same[given])
    assert torch.equal(model.fusion.second.weight, listed.fusion.second.weight)
    with pytest.raises(ImageError, match="no image was given to calibrate on"):
        toy.build(decoder=None).calibrate([])


def test_an_expert_without_finite_values_stops_calibration_before_it_changes_anything(toy: Any) -> None:
    model = toy.build(["toy-wide", "toy-whole"], decoder=None)
    before = model.fusion.second.weight.clone()
    key = next(key for key in model.experts if not model.align[key].needs_measuring)
    model.experts[key].register_forward_hook(
        lambda module, given, out: {name: value + float("nan") for name, value in out.items()}
    )
    with pytest.raises(DataError, match=f"'{key}' gives values that are not finite"):
        model.calibrate(toy.pictures(3))
    assert torch.equal(model.fusion.second.weight, before) and not model.calibrated


def test_a_state_dict_knows_whether_the_model_is_calibrated_and_trained(toy: Any) -> None:
    first, second = toy.build(decoder=None), toy.build(decoder=None, seed=1)
    first.calibrate(toy.pictures(3))
    first.trained = True
    second.load_state_dict(first.state_dict())
    assert second.calibrated and second.trained
    second.calibrate(toy.pictures(5))
    assert torch.equal(second.fusion.second.weight, first.fusion.second.weight), "it was calibrated already"


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat", "clip-mlp"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_that_is_converted_gives_the_same_tokens_but_for_rounding(
    toy: Any, kind: str, dtype: torch.dtype
) -> None:
    experts = [] if kind == "clip-mlp" else toy.experts
    model = uneven(toy.build(experts, seed=3, decoder=None, fusion={"kind": kind}), toy)
    want = model.tokens(toy.pictures())
    statistics = {name: value.clone() for name, value in model.align.named_buffers()}
    model.to(dtype)
    got = model.tokens(toy.pictures())
    assert got.dtype == torch.float32
    assert (got - want).norm() / want.norm() < (0.03 if dtype == torch.bfloat16 else 1e-5)
    assert all(torch.equal(value, statistics[name]) for name, value in model.align.named_buffers())
    for key in model.active_experts:
        model.detach(key)
    assert kind == "clip-mlp" or torch.equal(model.tokens(toy.pictures()), model.encode(toy.pictures())["clip"])


@pytest.mark.parametrize(("question", "words"), [(None, "is None, but a text"), ("\ud800?", "half a character")])
def test_a_question_that_is_no_text_is_refused_before_an_image_is_seen(
    toy: Any, monkeypatch: pytest.MonkeyPatch, question: Any, words: str
) -> None:
    model = toy.build()

    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("images were encoded")

    monkeypatch.setattr(type(model), "encode", computed)
    with pytest.raises(DataError, match=words):
        model.answer(toy.pictures(2), ["is it black?", question])
