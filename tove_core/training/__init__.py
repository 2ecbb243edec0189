"""Transfer training: teach the fusion and the decoder what the frozen experts know.

Only what is trained goes into the engine (accelerate); CLIP and the experts run once per image beforehand.
"""

from __future__ import annotations

from tove_core.training.loop import fit
from tove_core.training.run import resume, train

__all__ = ["fit", "resume", "train"]
