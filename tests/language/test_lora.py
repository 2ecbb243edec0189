from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tove_core import ToveModel
from tove_core.config import DecoderConfig, TrainingConfig
from tove_core.errors import ConfigError
from tove_core.language.load import save_decoder
from tove_core.language.quantised import quantisation
from tove_core.training import fit

LORA = {"train": "lora", "lora": {"rank": 3, "alpha": 6, "dropout": 0.2}}


def logits(model: Any, decoder: Any = None) -> torch.Tensor:
    text = torch.tensor([[5, 9, 40, 7]])
    with torch.no_grad():
        return (decoder or model.decoder.language_model)(text).logits


@pytest.fixture(scope="module")
def trained(toy: Any) -> ToveModel:
    model = toy.build(decoder=LORA)
    settings = TrainingConfig(steps=4, batch_size=5, learning_rate=1e-2, warmup=1)
    fit(model, toy.examples(model), settings, quiet=True)
    return model


def test_adapters_start_at_nothing_and_only_they_are_trained(toy: Any, trained: ToveModel) -> None:
    plain, fresh = toy.build(), toy.build(decoder=LORA)
    assert torch.equal(logits(plain), logits(fresh))
    names = [name for name, p in fresh.decoder.language_model.named_parameters() if p.requires_grad]
    assert names and all(".lora_" in name for name in names)
    # Llama of 2 layers, 24 wide, 1 head of 8 for keys and values, 40 inside: rank times (in + out) of 7 linears.
    sizes = [(24, 24), (24, 8), (24, 8), (24, 24), (24, 40), (24, 40), (40, 24)]
    assert sum(p.numel() for p in fresh.decoder.trainable_parameters()["language_model"]) == sum(
        2 * 3 * (a + b) for a, b in sizes
    )
    before = dict(plain.decoder.language_model.named_parameters())
    after = {n.replace(".base_layer", ""): p for n, p in trained.decoder.language_model.named_parameters()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.equal(logits(trained), logits(plain))


def test_adapters_are_trained_in_float32_in_a_language_model_that_is_not(toy: Any, tmp_path: Path) -> None:
    model = toy.build(decoder=LORA | {"dtype": "bfloat16"})
    adapters = {n: p for n, p in model.decoder.language_model.named_parameters() if ".lora_A" in n}
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    assert {p.dtype for n, p in model.decoder.language_model.named_parameters() if "lora" not in n} == {torch.bfloat16}
    before = {name: p.detach().clone() for name, p in adapters.items()}
    # At this rate a step is far below 1/256 of most values: in bfloat16 nearly all would stay as they were.
    settings = TrainingConfig(steps=6, batch_size=5, learning_rate=2e-5, warmup=1)
    fit(model, toy.examples(model), settings, quiet=True)
    changed = torch.cat([(adapters[name] != value).flatten() for name, value in before.items()])
    assert changed.float().mean() > 0.95
    loaded = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "ck"))
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.answer(toy.pictures(2), "what?") == model.answer(toy.pictures(2), "what?")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_language_model_is_not_trained_in_less_than_float32(toy: Any, dtype: str) -> None:
    model = toy.build(decoder={"train": "all", "dtype": dtype})
    with pytest.raises(
        ConfigError, match=f"weight is in {dtype}, where most steps are smaller .* decoder.dtype float32"
    ):
        fit(model, toy.examples(model), TrainingConfig(steps=1, batch_size=5, warmup=0), quiet=True)
    converted = toy.build().to(getattr(torch, dtype))
    with pytest.raises(ConfigError, match=f"is in {dtype}, where most steps"):
        fit(converted, toy.examples(converted), TrainingConfig(steps=1, batch_size=5, warmup=0), quiet=True)


def test_dropout_of_adapters_is_on_in_training_alone(toy: Any) -> None:
    decoder = toy.build(decoder=LORA).decoder
    layer = decoder.language_model.model.layers[0].mlp.up_proj
    assert not layer.lora_dropout["default"].training
    assert decoder.train().language_model.model.layers[0].mlp.up_proj.lora_dropout["default"].training
    assert not decoder.language_model.model.layers[0].self_attn.training


@pytest.mark.parametrize("full", [False, True])
def test_a_checkpoint_holds_adapters_by_name_and_loads_to_the_last_bit(
    trained: ToveModel, tmp_path: Path, full: bool
) -> None:
    trained.save_pretrained(tmp_path / "saved", full=full)
    again = ToveModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(trained))
    assert again.config.decoder.lora.rank == 3


def test_merged_weights_are_an_ordinary_language_model_that_says_the_same(trained: ToveModel, tmp_path: Path) -> None:
    save_decoder(trained.decoder, tmp_path, merged=True)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())
    assert torch.allclose(logits(None, plain), logits(trained), atol=1e-5)


def test_targets_that_do_not_exist_are_refused(toy: Any) -> None:
    with pytest.raises(ConfigError, match="do not suit LlamaForCausalLM"):
        toy.build(decoder={"train": "lora", "lora": {"targets": ["no_proj"]}})
    one = toy.build(decoder={"train": "lora", "lora": {"targets": ["q_proj"]}})
    assert len(one.decoder.trainable_parameters()["language_model"]) == 2 * 2


def test_few_bits_need_a_device_that_has_them_their_package_and_frozen_weights(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="needs a CUDA device or the CPU and the decoder goes to 'mps'"):
        quantisation(DecoderConfig(quantize="4bit"), "mps")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for device in (None, "cpu", "cuda:1"):
        with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed"):
            quantisation(DecoderConfig(quantize="8bit"), device)
    assert quantisation(DecoderConfig(), "mps") == {}
    with pytest.raises(ValueError, match="use train none or lora"):
        DecoderConfig(train="all", quantize="8bit")
