from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tove_core import ToveModel
from tove_core.errors import CheckpointError
from tove_core.fusion import Fused
from tove_core.fusion.gated import GatedTransfer
from tove_core.language.prefix import PrefixDecoder

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")


def everything(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def frozen(model: Any) -> Any:
    return model.requires_grad_(False)


def gate_frozen(model: Any) -> Any:
    model.fusion.gate.requires_grad_(False)
    return model


def averaged(model: Any) -> Any:
    return copy.deepcopy(model).requires_grad_(False)


@pytest.mark.parametrize("change", [frozen, gate_frozen, averaged])
@pytest.mark.parametrize("decoder", ["", None, {"train": "all"}, {"train": "lora"}])
def test_what_was_trained_is_kept_though_it_asks_for_no_gradients_any_more(
    toy: Any, tmp_path: Path, decoder: Any, change: Any
) -> None:
    if isinstance(decoder, dict) and decoder["train"] == "lora":
        pytest.importorskip("peft")
    model = toy.build(["toy-fine", "toy-wide"], decoder=decoder)
    model.calibrate(toy.pictures(4))
    model.trained = True
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    folder = change(model).save_pretrained(tmp_path / "one")
    loaded, trained = ToveModel.from_pretrained(folder), load_file(folder / "model.safetensors")
    assert [name for name, p in loaded.named_parameters() if p.requires_grad and name not in trained] == []
    same = everything(loaded)
    assert [name for name, tensor in everything(model).items() if not torch.equal(tensor, same[name])] == []


class Louder(GatedTransfer):
    """As the gate, but for what it makes of it."""

    def forward(self, tokens: Any, features: Any, **options: Any) -> Fused:
        found = super().forward(tokens, features, **options)
        return Fused(tokens + 2 * (found.tokens - tokens), found.gates)


def own_class(model: Any) -> None:
    model.fusion.__class__ = Louder


def parametrised(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model.fusion.second)


def no_fusion(model: Any) -> None:
    model.fusion = None


def decoder_taken(model: Any) -> None:
    model.decoder = None


def decoder_of_another_training(model: Any) -> None:
    model.decoder.config = model.decoder.config.model_copy(update={"train": "all"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (own_class, "the class Louder and the model's configuration builds GatedTransfer"),
        (parametrised, r"\(3 differ, first second.parametrizations.weight.original0\)"),
        (no_fusion, "the class None and the model's configuration builds GatedTransfer"),
        (decoder_taken, "decoder is none and its configuration names one"),
        (decoder_of_another_training, "train 'all' and the model's configuration says 'prefix' and 'none'"),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_a_model_that_its_configuration_does_not_build_is_not_saved(
    toy: Any, tmp_path: Path, change: Any, said: str, full: bool
) -> None:
    model = toy.build(["toy-fine", "toy-wide"])
    change(model)
    with pytest.raises(CheckpointError, match=said) as caught:
        model.save_pretrained(tmp_path / "one", full=full)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_decoder_that_the_configuration_does_not_name_is_not_saved(toy: Any, tmp_path: Path) -> None:
    model, other = toy.build(["toy-fine"], decoder=None), toy.build(["toy-fine"])
    model.decoder = other.decoder
    with pytest.raises(CheckpointError, match="is PrefixDecoder and its configuration names none"):
        model.save_pretrained(tmp_path / "one")
    mine = other.decoder
    other.decoder = PrefixDecoder(mine.language_model, mine.tokenizer, mine.config, mine.width)
    with pytest.raises(CheckpointError, match="save with full=True"):
        other.save_pretrained(tmp_path / "one")
    loaded = ToveModel.from_pretrained(other.save_pretrained(tmp_path / "one", full=True))
    assert loaded.caption(toy.pictures(2)) == other.caption(toy.pictures(2))


@pytest.mark.parametrize("part", ["tower", "experts", "decoder"])
def test_a_frozen_part_that_is_being_trained_is_saved_in_full_or_not_at_all(
    toy: Any, tmp_path: Path, part: str
) -> None:
    model = toy.build(["toy-wide"])
    asking = model.decoder.language_model if part == "decoder" else getattr(model, part)
    asking.thaw().eval() if part == "tower" else asking.requires_grad_(True)
    with torch.no_grad():
        for parameter in asking.parameters():
            parameter.mul_(1.05)
    with pytest.raises(CheckpointError, match=r"asks for gradients.*save with full=True"):
        model.save_pretrained(tmp_path / "one")
    loaded = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "one", full=True))
    assert torch.allclose(loaded.tokens(toy.pictures()), model.tokens(toy.pictures()), atol=1e-6)
    assert loaded.caption(toy.pictures(2)) == model.caption(toy.pictures(2))
