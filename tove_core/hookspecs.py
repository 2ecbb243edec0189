"""The hooks a plugin may implement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from tove_core.spec import ExpertSpec

PROJECT = "tove"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def tove_experts() -> Iterable[ExpertSpec]:  # type: ignore[empty-body]
    """Return the experts this plugin offers.

    The module that implements it must not import torch, numpy, timm or transformers: listing experts imports it.
    """
