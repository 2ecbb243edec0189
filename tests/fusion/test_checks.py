from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tove_core.errors import ConfigError, ContractError
from tove_core.fusion.checks import check_options, clip_tokens
from tove_core.fusion.transfer import without_experts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mask": torch.ones(4, 2)}, r"the mask is torch.float32 \[4, 2\]; wanted \[4, 2\], .* a, b, as torch.bool"),
        ({"mask": np.ones((4, 2), bool)}, "the mask is of type ndarray"),
        ({"mask": [[True, True]] * 4}, "the mask is of type list"),
        ({"keys": torch.arange(3)}, r"the keys are torch.int64 \[3\]; wanted torch.int64 \[4\], one for each sample"),
        ({"keys": torch.arange(1)}, r"torch.int64 \[1\]; wanted"),
        ({"keys": torch.rand(4)}, r"torch.float32 \[4\]; wanted"),
        ({"keys": torch.ones(4, dtype=torch.bool)}, r"torch.bool \[4\]; wanted"),
        ({"keys": [1, 2, 3, 4]}, "of type list; wanted"),
        ({"noise": -0.1}, "noise is -0.1; give a standard deviation"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
def test_options_that_do_not_fit_the_batch_are_refused_in_one_sentence(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        check_options(**{"mask": None, "keys": None, "noise": 0.0} | options, batch=4, experts=["a", "b"])
    assert "\n" not in str(caught.value)


def test_one_key_does_not_stand_for_every_sample(make: Any, drawn: Any) -> None:
    v, u = drawn
    for kind in ("gate", "uniform", "concat"):
        with pytest.raises(ConfigError, match=r"the keys are torch.int64 \[1\]"):
            make(kind)(v, u, keys=torch.tensor([5]), noise=1.0)
    one, other = make()(v, u, keys=torch.tensor([5, 6, 7], dtype=torch.int32), noise=1.0), make()(v, u)
    assert not torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("given", [None, {}, {"a": torch.ones(2, 3, 4)}, [1], {"clip": np.ones((2, 3, 4))}])
def test_features_without_clips_tokens_are_refused(given: Any) -> None:
    with pytest.raises(ContractError, match=r"CLIP's tokens are .*; give what ToveModel.encode returned"):
        clip_tokens(given)
    with pytest.raises(ContractError, match=r"CLIP's tokens are \(3, 4\)"):
        clip_tokens({"clip": torch.ones(3, 4)})


def test_an_experts_features_that_are_no_tensor_are_refused(make: Any, drawn: Any) -> None:
    v, u = drawn
    with pytest.raises(ContractError, match=r"'b' are of type ndarray; wanted aligned tokens \[3, 11, 7\]"):
        make()(v, u | {"b": u["b"].numpy()})


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat", "clip-mlp"])
def test_every_fusion_refuses_what_it_has_no_use_for(make: Any, drawn: Any, kind: str) -> None:
    v, u = drawn
    fusion = make(kind)
    for switched in ([], list(fusion.experts)):
        for name in switched:
            fusion.switch_off(name, "zero")
        with pytest.raises(ConfigError, match=r"gate noise 0\.3 was asked for without keys"):
            fusion(v, u, noise=0.3)
        with pytest.raises(ConfigError, match="noise is -3"):
            fusion(v, u, noise=-3)
        with pytest.raises(ConfigError, match="the mask is of type str"):
            fusion(v, u, mask="nonsense")
        with pytest.raises(TypeError, match="maks"):
            fusion(v, u, maks=3)
        columns = torch.ones(3, len(fusion.experts), dtype=torch.bool)
        assert torch.equal(fusion(v, u, mask=columns).tokens, fusion(v, u).tokens)


def test_options_are_held_to_the_same_where_there_is_nothing_to_fuse() -> None:
    v = torch.rand(2, 3, 4)
    assert without_experts(v, mask=torch.ones(2, 0, dtype=torch.bool), keys=torch.arange(2), noise=0.5).tokens is v
    with pytest.raises(ConfigError, match=r"wanted \[2, 0\], no column, there being no expert"):
        without_experts(v, mask=torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(TypeError, match="maks"):
        without_experts(v, maks=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat", "clip-mlp"])
def test_tokens_of_another_clip_and_numbers_that_are_no_floats_are_refused(make: Any, drawn: Any, kind: str) -> None:
    v, u = drawn
    with pytest.raises(ContractError, match=r"CLIP's tokens are \(3, 11, 5\); wanted \[B, N, 12\]"):
        make(kind)(v[..., :5], u)
    with pytest.raises(ContractError, match=r"CLIP's tokens are torch.int32 \(3, 11, 12\) .* floats \[B, N, D\]"):
        clip_tokens({"clip": v.int()})
    if kind != "clip-mlp":
        with pytest.raises(ContractError, match=r"'b' are torch.int64 \(3, 11, 7\); wanted aligned tokens .*, floats"):
            make(kind)(v, u | {"b": u["b"].long()})


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat", "clip-mlp"])
def test_a_fusion_is_exported_with_a_free_batch_size(make: Any, draw: Any, kind: str) -> None:
    fusion, size = make(kind), torch.export.Dim("batch", min=1, max=64)
    v, u = draw(batch=4)
    with torch.no_grad():
        program = torch.export.export(fusion, (v, u), dynamic_shapes=({0: size}, {name: {0: size} for name in u}))
        for batch in (1, 7):
            v, u = draw(batch=batch)
            torch.testing.assert_close(program.module()(v, u).tokens, fusion(v, u).tokens)
