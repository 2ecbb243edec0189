"""tove: route what frozen vision experts know into a frozen CLIP's tokens, then detach or merge the experts.

Only names and light modules load here; torch is imported when `build` or a model is first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tove_core import errors
from tove_core.hookspecs import hookimpl
from tove_core.licenses import LicensePolicy
from tove_core.spec import BuildContext, Cost, ExpertSpec, Grid, Input, Regions, Variant, Vector, Weights

if TYPE_CHECKING:
    from tove_core.builder import build
    from tove_core.hub.regions import RegionBatch
    from tove_core.model import ToveModel
    from tove_core.planning.plan import plan
    from tove_core.plugins import Offer, experts, register

__version__ = "0.1.0"

__all__ = [
    "BuildContext",
    "Cost",
    "ExpertSpec",
    "Grid",
    "Input",
    "LicensePolicy",
    "Offer",
    "RegionBatch",
    "Regions",
    "ToveModel",
    "Variant",
    "Vector",
    "Weights",
    "build",
    "errors",
    "experts",
    "hookimpl",
    "plan",
    "register",
]

_LAZY = {
    "build": "tove_core.builder",
    "RegionBatch": "tove_core.hub.regions",
    "ToveModel": "tove_core.model",
    "experts": "tove_core.plugins",
    "Offer": "tove_core.plugins",
    "plan": "tove_core.planning.plan",
    "register": "tove_core.plugins",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
