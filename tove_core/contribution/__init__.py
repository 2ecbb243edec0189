"""How much each expert contributes: the loss its absence costs, and cheaper proxies beside it."""

from __future__ import annotations

from tove_core.contribution.leave_one_out import Contribution, contributions, require_measurable

__all__ = ["Contribution", "contributions", "require_measurable"]
