"""What the tests of experts from transformers share: a small model of the library, saved by it, loaded by the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tove_core.hub.expert import FrozenExpert
from tove_core.hub.load import import_function, load_expert
from tove_core.hub.view import resample
from tove_core.spec import BuildContext, ExpertSpec, Input
from tove_core.testing.bench import fitted, small

Tiny = Callable[[ExpertSpec, PreTrainedModel], FrozenExpert]


@pytest.fixture
def distinct() -> Callable[[nn.Module], nn.Module]:
    """Give every parameter and statistic values of its own, so that a tensor in a wrong place is seen."""

    def fill(module: nn.Module) -> nn.Module:
        draw = torch.Generator().manual_seed(5)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=draw) * 0.1
                tensor.data = noise.square() + 0.5 if "var" in name else tensor.data + noise
        return module.eval()

    return fill


@pytest.fixture
def through_the_hub(tmp_path: Path, distinct: Callable[[nn.Module], nn.Module]) -> Tiny:
    """Save a library's model as the library does, and load it as an expert, by the spec's tiny options."""

    def load(spec: ExpertSpec, model: PreTrainedModel) -> FrozenExpert:
        distinct(model).save_pretrained(tmp_path)  # type: ignore[operator]
        return from_folder(spec, tmp_path)

    return load


def from_folder(spec: ExpertSpec, folder: Path) -> FrozenExpert:
    """Load the tiny form of an expert from a folder."""
    tiny = small(spec.variant())
    expert, digest = load_expert(tiny, name=spec.name, weights=folder)
    assert digest is not None
    return fitted(expert, torch.zeros(1, 3, *tiny.input.size))


@pytest.fixture
def load_folder() -> Callable[[ExpertSpec, Path], FrozenExpert]:
    """Load the tiny form of an expert from a folder."""
    return from_folder


@pytest.fixture
def photo() -> Callable[[Input], Tensor]:
    """Make an image [3, H, W] of just the size of an input: nobody has to resample it."""

    def make(input: Input) -> Tensor:
        draw = torch.Generator().manual_seed(11)
        return torch.randint(256, (3, *input.size), generator=draw, dtype=torch.uint8)

    return make


@pytest.fixture
def seen() -> Callable[[Tensor, Input], Tensor]:
    """Prepare one image as the hub does, [1, 3, H, W]."""
    return lambda image, input: resample(image, "squash", input)[None]


@pytest.fixture
def on_meta() -> Callable[[ExpertSpec, str | None], nn.Module]:
    """Build the full published architecture of a variant without storage."""

    def build(spec: ExpertSpec, variant: str | None) -> nn.Module:
        chosen = spec.variant(variant)
        with torch.device("meta"):
            return import_function(chosen.factory, spec.name)(
                BuildContext(chosen, MappingProxyType(dict(chosen.options)))
            )

    return build


@pytest.fixture
def count() -> Callable[[nn.Module], int]:
    """Count parameters."""
    return lambda module: sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def close() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]:
    """Assert that outputs agree to 1e-5 of their scale, and that they say something."""

    def check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert tensor.std() > 0, f"{name} is constant: equality proves nothing"
            scale = float(tensor.abs().max().clamp(min=1))
            torch.testing.assert_close(
                found[name], tensor, rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
            )

    return check
