"""The models that are compared: CLIP alone, single experts, ways to fuse several, the gate without one of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tove_core.config import ModelConfig
from tove_core.demo.hooks import EXPERTS
from tove_core.demo.world import GATE, model_config

CLIP_ONLY, HUB = "clip-mlp", "gate"
"""The two that every other comparison refers to."""


@dataclass(frozen=True)
class Variant:
    """One way to use the experts.

    Attributes:
        name: as in tables.
        kind: of the fusion.
        experts: whom it uses.
        fusion: settings of the fusion that differ.
        gate: settings of the gate that differ.
    """

    name: str
    kind: str
    experts: tuple[str, ...] = EXPERTS
    fusion: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)

    def config(self, parameters: int) -> ModelConfig:
        """Return the model's configuration.

        Args:
            parameters: what the fusion trains, within one hidden unit.
        """
        gate = GATE.model_copy(update=dict(self.gate))
        return model_config(self.kind, self.experts, parameters, gate=gate, **self.fusion)


def beside(expert: str) -> str:
    """Return the name of the variant that adds one expert to CLIP."""
    return f"CLIP + {expert}"


def alone(expert: str) -> str:
    """Return the name of the variant that puts one expert in CLIP's place."""
    return f"{expert} alone"


VARIANTS: dict[str, Variant] = {
    one.name: one
    for one in (
        Variant(CLIP_ONLY, "clip-mlp", ()),
        *(Variant(beside(name), "uniform", (name,)) for name in EXPERTS),
        # A sample that trained without its only expert would see nothing at all.
        *(Variant(alone(name), "uniform", (name,), {"replace": True}, {"expert_dropout": 0.0}) for name in EXPERTS),
        Variant("uniform", "uniform"),
        Variant("concat", "concat"),
        Variant(HUB, "gate"),
        Variant("gate, sigmoid", "gate", gate={"activation": "sigmoid"}),
        Variant("gate, no residual", "gate", fusion={"replace": True}),
        Variant("gate, no balancing", "gate", gate={"balance": 0.0}),
        Variant("gate, no expert dropout", "gate", gate={"expert_dropout": 0.0}),
    )
}
"""Every variant by name, in the order of the tables."""

SHORT = (CLIP_ONLY, "uniform", "concat", HUB, "gate, sigmoid")
"""What runs on data sets that are not the world's own."""
