"""Writes a CLIP in other people's formats and proves, by loading it back, that it computes the same."""

from __future__ import annotations
