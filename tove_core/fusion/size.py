"""How many parameters a fusion trains, counted without building it, and the width that gives a wanted number."""

from __future__ import annotations

from collections.abc import Sequence

from tove_core.config import FusionConfig
from tove_core.errors import ConfigError


def fusion_parameters(config: FusionConfig, width: int, expert_widths: Sequence[int]) -> int:
    """Return the trainable parameters of a fusion on tokens of `width` D with experts of the given aligned widths."""
    if not expert_widths and config.kind != "clip-mlp":  # nothing to fuse: `build_transfer` builds nothing
        return 0
    hidden = projector_hidden(config, width, expert_widths)
    return _per_hidden(config, width, expert_widths) * hidden + _gate_parameters(config, width, len(expert_widths))


def projector_hidden(config: FusionConfig, width: int, expert_widths: Sequence[int]) -> int:
    """Return H: as configured, else the H that trains `parameters`, else D.

    Raises:
        ConfigError: `parameters` is too small for a hidden layer of one.
    """
    if config.parameters is None:
        return config.hidden or width
    left = config.parameters - _gate_parameters(config, width, len(expert_widths))
    hidden = round(left / _per_hidden(config, width, expert_widths))
    if hidden < 1:
        raise ConfigError(
            f"fusion.parameters {config.parameters} leaves no room for a projector of kind {config.kind!r}; give more"
        )
    return hidden


def _per_hidden(config: FusionConfig, width: int, expert_widths: Sequence[int]) -> int:
    inputs = {
        "gate": sum(expert_widths) + len(expert_widths),
        "uniform": sum(expert_widths) + len(expert_widths),
        "concat": sum(expert_widths) + 1,
        "clip-mlp": width + 1,
    }
    return inputs[config.kind] + width


def _gate_parameters(config: FusionConfig, width: int, experts: int) -> int:
    if config.kind != "gate":
        return 0
    gate = config.gate
    return 2 * width + (width + 1) * gate.hidden + (experts + gate.null) * (gate.hidden + 1)
