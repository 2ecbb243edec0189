from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.training.only import only_experts


def trainable(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_only_what_is_an_experts_own_is_trainable_for_as_long_as_it_lasts(toy: Any) -> None:
    model = toy.build(decoder={"train": "all"})
    before = trainable(model)
    with only_experts(model, ["toy-wide"]):
        assert trainable(model) and all("toy-wide" in name for name in trainable(model))
    assert trainable(model) == before


def test_parameters_that_were_exchanged_meanwhile_are_trainable_again(toy: Any) -> None:
    model = toy.build(decoder={"train": "all"})
    before, language = trainable(model), model.decoder.language_model
    with only_experts(model, ["toy-wide"]):
        for module in language.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    assert trainable(model) == before


def test_who_is_to_be_trained_must_be_there(toy: Any) -> None:
    with pytest.raises(ConfigError, match="at least one expert's name"), only_experts(toy.build(), []):
        pass
    with pytest.raises(ConfigError, match="only is 'toy-wide'; give a list"), only_experts(toy.build(), "toy-wide"):
        pass
    with pytest.raises(UnknownExpertError), only_experts(toy.build(), ["toy-nobody"]):
        pass
