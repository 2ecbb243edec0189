from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tove_core.errors import ConfigError, ContractError
from tove_core.fusion.checks import check_options, clip_tokens


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
