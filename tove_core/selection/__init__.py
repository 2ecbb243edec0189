"""Learn which experts an image deserves, under a budget, and see whether that beats a fixed choice."""

from __future__ import annotations

from tove_core.selection.report import SelectionReport
from tove_core.selection.select import require_selectable, select

__all__ = ["SelectionReport", "require_selectable", "select"]
