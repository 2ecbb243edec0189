from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tove_core.config import FusionConfig, GateConfig
from tove_core.fusion import Transfer, build_transfer

WIDTH = 12
EXPERTS = {"a": 5, "b": 7, "c": 3}


def features_of(experts: Mapping[str, int] = EXPERTS, batch: int = 3, tokens: int = 11, seed: int = 0):
    """Tokens v and aligned features u_k by name."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(batch, tokens, WIDTH, generator=generator)
    return v, {name: torch.randn(batch, tokens, width, generator=generator) for name, width in experts.items()}


@pytest.fixture
def drawn() -> tuple[Tensor, dict[str, Tensor]]:
    return features_of()


@pytest.fixture
def draw() -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    return features_of


@pytest.fixture
def make() -> Callable[..., Transfer]:
    """Build a fusion whose gate already differs from token to token; fields of `gate` are given as `gate_x`."""

    def build(
        kind: str = "gate",
        experts: Mapping[str, int] = EXPERTS,
        ghosts: Sequence[str] = (),
        trained: bool = True,
        **given: Any,
    ) -> Transfer:
        gate = GateConfig(**{"hidden": 6} | {k[5:]: given.pop(k) for k in list(given) if k.startswith("gate_")})
        config = FusionConfig(**{"kind": kind, "hidden": 9, "gate": gate} | given)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            transfer = build_transfer(config, WIDTH, {} if kind == "clip-mlp" else experts, ghosts)
            if transfer is None:
                pytest.fail("there is nothing to fuse")
            if trained and getattr(transfer, "gate", None) is not None:
                for name, parameter in transfer.gate.named_parameters():  # type: ignore[union-attr]
                    if name.startswith(("rows", "null")):
                        torch.nn.init.normal_(parameter)
        return transfer

    return build


@pytest.fixture
def optimise() -> Callable[[Transfer], None]:
    """A few optimiser steps on a task that needs the experts."""

    def steps(transfer: Transfer, count: int = 3, **options: Any) -> None:
        v, u = features_of(seed=5)
        target = torch.randn(v.shape, generator=torch.Generator().manual_seed(6))
        optimiser = torch.optim.AdamW(transfer.parameters(), lr=0.05)
        for _ in range(count):
            optimiser.zero_grad()
            (transfer(v, u, **options).tokens - target).square().mean().backward()
            optimiser.step()

    return steps
