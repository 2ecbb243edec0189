"""Every architecture that comes with tove, at its small size, computes on the device what it does on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tove_core import plugins
from tove_core.hub.load import load_expert
from tove_core.spec import ExpertSpec
from tove_core.testing.bench import fitted, small
from tove_core.testing.images import pixels

PARTS = ("boxes", "scores", "masks", "features", "text")


def architectures() -> list[ExpertSpec]:
    """Return a spec for each factory: others of it differ in sizes alone."""
    found: dict[str, ExpertSpec] = {}
    for offer in plugins.registry().offers:
        if offer.source.distribution == plugins.OWN:
            found.setdefault(offer.spec.factory, offer.spec)
    return list(found.values())


def flat(outputs: Any) -> Iterator[tuple[str, Any]]:
    for name, value in outputs.items():
        own = {name: value} if isinstance(value, torch.Tensor) else {part: getattr(value, part) for part in PARTS}
        yield from ((key, one) for key, one in own.items() if one is not None)


@pytest.mark.parametrize("spec", architectures(), ids=lambda spec: spec.name)
def test_an_architecture_computes_on_the_device(spec: ExpertSpec, device: str) -> None:
    spec = small(spec.variant())
    expert, _ = load_expert(spec, name=spec.name, weights="random")
    images = pixels(spec.input, 2)
    expert = fitted(expert, images)
    want = dict(flat(expert(images)))
    expert.module.to(device)
    got = dict(flat(expert(images.to(device))))
    assert got.keys() == want.keys()
    for key, value in want.items():
        if key == "text":
            assert got[key] == value
            continue
        assert got[key].device.type == device.partition(":")[0]
        torch.testing.assert_close(got[key].cpu(), value, rtol=2e-3, atol=2e-3)


def test_every_factory_is_here() -> None:
    modules = {re.split("[:.]", spec.factory)[-2] for spec in architectures()}
    assert len(modules) > 10, modules
