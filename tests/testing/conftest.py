"""A small expert that conforms, and the means to break it."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tove_core import plugins
from tove_core.spec import Cost, ExpertSpec, Grid, Input
from tove_core.testing import CATALOGUE, Check, Result, run_checks
from tove_core.testing.run import weigh
from tove_core.testing.subject import subjects

CHANNELS, STRIDE, SIZE = 33, 8, (48, 64)


class Patches(nn.Module):
    """Pixels to `map`: a convolution of patches."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, STRIDE, STRIDE)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"map": self.conv(pixels)}


@pytest.fixture
def patches() -> type[Patches]:
    """Give the class of the conforming expert's module."""
    return Patches


Offer = Callable[..., ExpertSpec]


@pytest.fixture
def offer() -> Iterator[Offer]:
    """Give `offer(factory, convert=None, **fields)`: the conforming expert's spec with another factory and fields."""
    module, numbers = types.ModuleType("conformance_probes"), itertools.count()
    sys.modules[module.__name__] = module

    def named(function: Callable[..., Any]) -> str:
        name = f"probe{next(numbers)}"
        setattr(module, name, function)
        return f"{module.__name__}:{name}"

    def make(
        factory: Callable[..., Any] = lambda ctx: Patches(), convert: Callable[..., Any] | None = None, **fields: Any
    ) -> ExpertSpec:
        given: dict[str, Any] = {
            "api": 1,
            "name": "probe",
            "summary": "A convolution.",
            "factory": named(factory),
            "convert": named(convert) if convert else None,
            "input": Input(size=SIZE, patch=STRIDE, dynamic=True),
            "outputs": {"map": Grid(channels=CHANNELS, stride=STRIDE)},
            "cost": Cost(params=6_369, flops=608_256),
        }
        return ExpertSpec(**(given | fields))

    yield make
    del sys.modules[module.__name__]


@pytest.fixture
def verdict() -> Callable[..., Result]:
    """Give `verdict(id, expert)`: the result of one check."""

    def decide(id: str, expert: ExpertSpec | str) -> Result:
        (one,) = (definition for definition in CATALOGUE if definition.id == id)
        return weigh(Check(one, next(iter(subjects(expert)))), None)

    return decide


@pytest.fixture
def everything() -> Callable[..., dict[str, Result]]:
    """Give `everything(expert)`: the result of every check by its id."""
    return lambda expert: {result.check.id: result for result in run_checks(expert)}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give `installed(code, entry_point=...)`: a distribution `odd-plugin` whose module offers experts."""

    def write(code: str, entry_point: str = "odd", extra: str = "") -> None:
        info = tmp_path / "odd_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tove]\n{entry_point} = odd_plugin\n")
        (tmp_path / "odd_plugin.py").write_text(code)
        (tmp_path / "odd_plugin_more.py").write_text(extra)
        monkeypatch.syspath_prepend(str(tmp_path))
        plugins.registry.cache_clear()

    monkeypatch.delenv("TOVE_PLUGINS", raising=False)
    monkeypatch.delenv("TOVE_BLOCK", raising=False)
    yield write
    plugins.registry.cache_clear()
    for name in ("odd_plugin", "odd_plugin_more"):
        sys.modules.pop(name, None)
