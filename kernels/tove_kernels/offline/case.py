"""What a launch that is compiled offline consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

BF16 = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """One launch of an operator.

    Args:
        name: operator, shape and options.
        launch: calls the launcher on `meta` tensors.
        vectors: for the kernels whose main tensors must be read and written in 128 bits: by kernel, from the
            compile-time constants to the elements of a tile that a program loads and stores.
        bits: of an element of the main tensors.
    """

    name: str
    launch: Callable[[], object]
    vectors: Mapping[str, Callable[[Mapping[str, Any]], tuple[int, int]]]
    bits: int = 16
