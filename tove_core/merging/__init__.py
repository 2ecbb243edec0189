"""Merge what the experts know into one CLIP tower that needs no expert at deployment."""

from __future__ import annotations

from tove_core.merging.merge import merge, require_mergeable

__all__ = ["merge", "require_mergeable"]
