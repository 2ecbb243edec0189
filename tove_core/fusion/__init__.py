"""From expert maps to enhanced tokens: align, project, gate, mix, add.

Loading, freezing and running the experts is not done here (see `tove_core.hub`).
"""

from __future__ import annotations

from tove_core.fusion.align import Align
from tove_core.fusion.gate import Gate
from tove_core.fusion.kinds import build_transfer
from tove_core.fusion.size import fusion_parameters
from tove_core.fusion.transfer import Fused, Transfer

__all__ = ["Align", "Fused", "Gate", "Transfer", "build_transfer", "fusion_parameters"]
