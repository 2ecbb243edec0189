"""Registers the experts of the embedded world; importing it does not import torch."""

from __future__ import annotations

from typing import Any

from tove_core.demo.shipped import manifest
from tove_core.hookspecs import hookimpl
from tove_core.spec import Cost, ExpertSpec, Grid, Input, Weights

_INPUT = Input(size=(48, 48), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

EXPERTS = ("world-depth-day", "world-depth-night", "world-centre", "world-contact", "world-blank")
"""The names of the world's experts."""


@hookimpl
def tove_experts() -> list[ExpertSpec]:
    """Return the experts of the embedded world."""
    shipped = manifest()
    return [
        _spec(shipped, "world-depth-day", "depth, right only where a scene is lit by day", "depth"),
        _spec(shipped, "world-depth-night", "depth, right only where a scene is lit by night", "depth"),
        _spec(shipped, "world-centre", "object centres as a heat map that sums to their number", "centre"),
        _spec(shipped, "world-contact", "outlines: object against background, and object against object", "contact", 2),
        _spec(shipped, "world-blank", "the same map for every image: knows nothing, on purpose", "blank"),
    ]


def _spec(shipped: dict[str, Any], name: str, summary: str, output: str, channels: int = 1) -> ExpertSpec:
    file = f"{name}.safetensors"
    entry = shipped[file]
    return ExpertSpec(
        api=1,
        name=name,
        summary=summary,
        factory=f"tove_core.demo.experts:build_{output}",
        input=_INPUT,
        outputs={output: Grid(channels=channels, stride=2, norm="fixed", fold=4)},
        weights=Weights(
            package="tove_core.demo",
            file=f"assets/{file}",
            sha256=entry["sha256"],
            size=entry["bytes"],
            license="Apache-2.0",
            commercial=True,
        ),
        cost=Cost(params=entry["params"], flops=entry["flops"]),
    )
