"""The frozen CLIP whose vision tokens are enhanced: one face over open_clip and transformers models."""

from __future__ import annotations

from tove_core.tower.base import Activation, Tokens, Tower
from tove_core.tower.load import load_tower

__all__ = ["Activation", "Tokens", "Tower", "load_tower"]
