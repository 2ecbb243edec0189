"""Transfer training: teach the fusion and the decoder what the frozen experts know.

Only what is trained goes into the engine (accelerate); CLIP and the experts run once per image beforehand. The engine
is imported when one of these functions is first touched, so that a command that only starts processes does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tove_core.training.loop import fit
    from tove_core.training.run import resume, train

__all__ = ["fit", "resume", "train"]

_LAZY = {"fit": "tove_core.training.loop", "resume": "tove_core.training.run", "train": "tove_core.training.run"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
