"""Stage recipes: what `training.stage` fills into a configuration where it says nothing itself. No torch."""

from __future__ import annotations

from typing import Any

STAGES: dict[str, dict[str, Any]] = {
    # Experts are explored: noise, balance and dropped experts as by default, the gate even at first.
    "transfer": {
        "training": {"learning_rate": 1e-3, "warmup": 200},
        "model": {"fusion": {"gate": {"temperature_start": 2.0}}},
    },
    # What was found is kept: low rates, no exploration; experts are still dropped, so that they can be detached.
    "finetune": {
        "training": {"learning_rate": 1e-4, "decoder_learning_rate": 2e-5, "warmup": 100},
        "model": {"fusion": {"gate": {"noise": 0.0, "balance": 0.0, "expert_dropout": 0.05}}},
    },
}
"""What `training.stage` fills in, as far as a configuration says nothing itself."""


def filled(given: Any, recipe: dict[str, Any]) -> Any:
    """Return a configuration with what a recipe says where it says nothing."""
    if not isinstance(given, dict):
        return given
    parts = {
        key: filled(given.get(key, {}), value) if isinstance(value, dict) else value for key, value in recipe.items()
    }
    return parts | {key: value for key, value in given.items() if not isinstance(parts.get(key), dict)}
