from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tove_core.errors import ConfigError, ToveError, UnknownExpertError, WeightsError


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert text and "\n" not in text and text[0] == text[0].lower()
    return text


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_built_model_gives_tokens_and_text(toy: Any) -> None:
    model = toy.build()
    tokens = model.tokens(toy.pictures(2))
    assert tokens.shape == (2, 25, 32) and torch.isfinite(tokens).all()
    assert not model.training and model.active_experts == list(toy.experts)
    with pytest.warns(UserWarning, match="never trained"):
        assert len(model.answer(toy.pictures(2), "is it black?")) == 2


def test_only_fusion_and_projector_are_trainable(toy: Any) -> None:
    model = toy.build()
    trainable = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"fusion", "decoder"}
    assert not any(p.requires_grad for p in model.decoder.language_model.parameters())


def test_without_a_decoder_there_are_tokens_but_no_text(toy: Any) -> None:
    model = toy.build(decoder=None)
    assert model.tokens(toy.pictures(1)).shape == (1, 25, 32)
    with pytest.raises(ConfigError, match="decoder=None") as caught:
        model.caption(toy.pictures(1))
    one_sentence(caught.value)


def test_the_seed_decides_everything_random_and_leaves_the_callers_generator_alone(toy: Any) -> None:
    torch.manual_seed(1)
    first = toy.build(weights="random", seed=5)
    drawn = torch.rand(3)
    again, other = toy.build(weights="random", seed=5), toy.build(weights="random", seed=6)
    assert same(state(first), state(again))
    for part in ("tower", "experts", "fusion", "decoder"):
        assert not same(state(getattr(first, part)), state(getattr(other, part))), part
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_pinned_weights_are_those_of_the_files_and_random_ones_are_not(toy: Any) -> None:
    file = load_file(toy.site / "toy_experts" / "toy-wide.safetensors")
    pinned, drawn = toy.build(["toy-wide"]), toy.build(["toy-wide"], weights="random")
    assert torch.equal(pinned.experts["toy-wide"].module.conv.weight, file["conv.weight"])
    assert not torch.equal(drawn.experts["toy-wide"].module.conv.weight, file["conv.weight"])
    assert pinned.provenance.experts["toy-wide"].sha256 and drawn.provenance.experts["toy-wide"].sha256 is None


def test_weights_may_come_from_a_folder(toy: Any, tmp_path: Path) -> None:
    tensors = {"conv.weight": torch.full((33, 3, 8, 8), 0.25), "conv.bias": torch.ones(33)}
    save_file(tensors, tmp_path / "toy-wide.safetensors")
    model = toy.build(["toy-wide"], weights=tmp_path)
    assert torch.equal(model.experts["toy-wide"].module.conv.weight, tensors["conv.weight"])
    with pytest.raises(WeightsError, match="no weights for expert 'toy-wide'"):
        toy.build(["toy-wide"], weights=tmp_path / "nowhere")


@pytest.mark.parametrize("weights", ["pinned", "random"])
def test_what_an_expert_gives_does_not_depend_on_its_company(toy: Any, weights: str) -> None:
    together = toy.build(weights=weights, decoder=None).encode(toy.pictures())
    reverse = toy.build(toy.experts[::-1], weights=weights, decoder=None).encode(toy.pictures())
    for name in toy.experts:
        alone = toy.build([name], weights=weights, decoder=None).encode(toy.pictures())
        assert torch.equal(alone[name], together[name]) and torch.equal(alone[name], reverse[name])
        assert torch.equal(alone["clip"], together["clip"])


def test_variants_and_qualified_names_are_names_of_experts(toy: Any) -> None:
    model = toy.build(["toy-experts/toy-whole:large", "toy-whole"], decoder=None)
    features = model.encode(toy.pictures(1))
    assert features["toy-experts/toy-whole:large"].shape[-1] == 40 and features["toy-whole"].shape[-1] == 7
    known = model.provenance.experts["toy-experts/toy-whole:large"]
    assert (known.name, known.variant, known.distribution, known.version) == (
        "toy-whole",
        "large",
        "toy-experts",
        "1.0",
    )


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"experts": ["toy-wid"]}, UnknownExpertError, "did you mean toy-wide"),
        ({"experts": ["toy-whole:larg"]}, UnknownExpertError, "did you mean large"),
        ({"experts": ["toy-fine", "toy-fine"]}, ConfigError, "twice"),
        ({"experts": "toy-fine"}, ConfigError, "list"),
        ({"experts": [{"name": "toy-fine", "dtyp": "float32"}]}, ConfigError, "did you mean 'dtype'"),
        ({"experts": [3]}, ConfigError, "3"),
        ({"fusion": "clip-mlp"}, ConfigError, "uses no experts"),
        ({"fusion": "gat"}, ConfigError, "gat"),
        ({"view": "sqash"}, ConfigError, "view"),
        ({"clip": 5}, ConfigError, "5"),
        ({"experts": [], "device": "cuda:63"}, ConfigError, "the model's device 'cuda:63' cannot be used here"),
        ({"clip": "local-dir:nowhere"}, ConfigError, "nowhere"),
        ({"decoder": "./nowhere"}, ToveError, "nowhere"),
        ({"weights": "randm"}, ToveError, "randm"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(toy: Any, options: dict, error: type, wanted: str) -> None:
    with pytest.raises(error, match=wanted) as caught:
        toy.build(**options)
    one_sentence(caught.value)


def test_an_unknown_expert_is_refused_before_anything_is_loaded(toy: Any) -> None:
    with pytest.raises(UnknownExpertError):
        toy.build(["toy-wide", "toy-none"], weights="a folder that is not there")


def test_offline_without_weights_one_sentence_says_what_to_do(toy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(WeightsError, match=r"ViT-B-32/openai.*local-dir:FOLDER") as caught:
        toy.build(clip="ViT-B-32/openai")
    one_sentence(caught.value)


def test_a_projector_trained_before_is_where_training_starts(toy: Any, tmp_path: Path) -> None:
    tensors = {name: torch.full_like(p, 0.5) for name, p in toy.build().decoder.projector.state_dict().items()}
    save_file(tensors, tmp_path / "projector.safetensors")
    model = toy.build(decoder={"projector": str(tmp_path / "projector.safetensors")})
    assert same(dict(model.decoder.projector.state_dict()), tensors)
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="does not fit") as caught:
        toy.build(decoder={"projector": str(tmp_path / "other.safetensors")})
    one_sentence(caught.value)


def test_a_spec_in_place_of_a_name_is_named_and_not_printed(toy: Any) -> None:
    from tove_core import plugins

    spec = plugins.registry().resolve("toy-wide").spec
    with pytest.raises(ConfigError) as caught:
        toy.build([spec])
    assert one_sentence(caught.value).startswith("the expert spec 'toy-wide' was given as ExpertConfig; give its name")
    with pytest.raises(ConfigError) as caught:
        toy.build([["x" * 500]])
    assert len(one_sentence(caught.value)) < 200


def test_builds_in_several_threads_give_what_they_give_one_after_another(toy: Any) -> None:
    def parts(seed: int) -> dict[str, torch.Tensor]:
        return state(toy.build(["toy-fine"], weights="random", seed=seed))

    alone, found = [parts(seed) for seed in range(3)], {}
    before, interval = torch.get_rng_state(), sys.getswitchinterval()
    threads = [threading.Thread(target=lambda s=s: found.setdefault(s, parts(s))) for s in range(3)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
    finally:
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert all(same(found[seed], wanted) for seed, wanted in enumerate(alone))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_callers_default_dtype_has_no_say_in_what_is_built(toy: Any, dtype: torch.dtype) -> None:
    wanted = state(toy.build(["toy-fine"]))
    torch.set_default_dtype(dtype)
    try:
        found = state(toy.build(["toy-fine"]))
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(found, wanted) and {name: t.dtype for name, t in found.items()} == {
        name: t.dtype for name, t in wanted.items()
    }


def test_the_callers_default_device_has_no_say_in_what_is_built(toy: Any) -> None:
    wanted = state(toy.build(["toy-fine", "toy-wide"]))
    with torch.device("meta"):
        found = state(toy.build(["toy-fine", "toy-wide"]))
        assert torch.empty(1).is_meta
    assert same(found, wanted)
