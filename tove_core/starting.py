"""Settings in which a run differs from the checkpoint it starts from, whose tensors were trained for others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tove_core.config import ModelConfig

_SHAPING = ("decoder.kind", "decoder.train", "fusion.kind", "fusion.hidden", "fusion.parameters")
"""Settings that say which tensors are trained, and how large they are."""
_SHAPING_GATE = ("fusion.gate.hidden", "fusion.gate.null")
_SHAPING_LORA = ("decoder.lora.rank", "decoder.lora.targets")
_MEANING = ("clip.layer", "view", "fusion.replace")
"""Settings that change what the same tensors do."""
_MEANING_GATE = ("fusion.gate.activation", "fusion.gate.temperature")
_MEANING_LORA = ("decoder.lora.alpha",)


def other_shapes(was: ModelConfig, now: ModelConfig) -> list[str]:
    """Return the settings for which a checkpoint may hold other tensors than a run trains, with both values."""
    keys = [*_SHAPING, *_SHAPING_GATE * _both_gated(was, now), *_SHAPING_LORA * _both_adapted(was, now)]
    return _differing(was, now, keys)


def other_meanings(was: ModelConfig, now: ModelConfig) -> list[str]:
    """Return the settings by which a checkpoint's tensors do something else in a run, with both values."""
    keys = [*_MEANING, *_MEANING_GATE * _both_gated(was, now), *_MEANING_LORA * _both_adapted(was, now)]
    return _differing(was, now, keys)


def _differing(was: ModelConfig, now: ModelConfig, keys: Sequence[str]) -> list[str]:
    found = [(key, _at(was, key), _at(now, key)) for key in keys]
    return [f"model.{key} ({_word(there)} there, {_word(here)} here)" for key, there, here in found if there != here]


def _both_gated(was: ModelConfig, now: ModelConfig) -> bool:
    return was.fusion.kind == now.fusion.kind == "gate"


def _both_adapted(was: ModelConfig, now: ModelConfig) -> bool:
    return all(one.decoder is not None and one.decoder.train == "lora" for one in (was, now))


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part, None)
    return config


def _word(value: Any) -> str:
    return "null" if value is None else ", ".join(value) if isinstance(value, tuple) else f"{value}"
