from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tove_core.errors import DataError
from tove_core.fusion.finite import require_finite

NAN, INF = float("nan"), float("inf")


def features() -> dict[str, torch.Tensor]:
    return {name: torch.randn(3, 4, channels) for name, channels in (("clip", 5), ("a", 7), ("b", 1))}


def test_finite_tokens_pass_also_those_whose_sum_is_too_large() -> None:
    require_finite(torch.full((3, 4, 5), 3e38), features(), [1, 2, 3])
    require_finite(torch.zeros(0, 4, 5), features(), [])


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_who_is_not_finite_is_named_with_the_first_image(value: float) -> None:
    tokens, given = torch.randn(3, 4, 5), features()
    tokens[1, 2, 3], tokens[2], given["b"][1, 0, 0], given["a"][2] = value, value, value, value
    with pytest.raises(DataError, match=r"^expert 'b' gave values that are not finite for image 2 of 3 \(x/y.png\);"):
        require_finite(tokens, given, ["x.png", Path("x/y.png"), "z.png"])
    given["clip"][1] = value
    with pytest.raises(DataError, match=r"^CLIP and expert 'b' gave values that are not finite for image 2 of 3; "):
        require_finite(tokens, given, [torch.zeros(3, 2, 2)] * 3)


def test_a_fusion_that_makes_finite_features_infinite_is_told_apart() -> None:
    tokens = torch.randn(3, 4, 5)
    tokens[2, 0, 0] = INF
    with pytest.raises(DataError, match=r"^the fusion gives tokens that are not finite for image 3 of 3, though"):
        require_finite(tokens, features(), [b"", b"", b""])
