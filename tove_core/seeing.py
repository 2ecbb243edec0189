"""From images to tokens: the frozen parts of a model beside each other, and what is made of what they see."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tove_core.config import Rule
from tove_core.fusion import Align, Fused, Transfer
from tove_core.hub.autocast import no_autocast
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.streams import run_beside
from tove_core.hub.transfer import arrived, sent
from tove_core.naming import CLIP
from tove_core.tower.base import Tower

if TYPE_CHECKING:
    from tove_core.model import ToveModel


def as_now(model: ToveModel) -> ToveModel:
    """Return the same model, parts shared, whose experts that are on stay so, whatever is switched meanwhile."""
    now = copy.copy(model)
    now._modules = dict(model._modules)
    if model.fusion is not None:
        now._modules["fusion"] = _Held(model.fusion)  # type: ignore[assignment]  # no module: it stands for one
    return now


class _Held:
    """Stands for a fusion whose experts that are on stay so. The module itself is run, with its hooks and compiled."""

    def __init__(self, fusion: Transfer) -> None:
        self._fusion, self.off = fusion, dict(fusion.off)

    def __call__(self, *args: Any, **options: Any) -> Fused:
        with self._fusion.holding(self.off):
            return self._fusion(*args, **options)

    def __getattr__(self, name: str) -> Any:
        with self._fusion.holding(self.off):
            return getattr(self._fusion, name)

    def switch_off(self, name: str, rule: Rule) -> None:
        """Switch an expert off here, and nowhere else."""
        self._fusion.require_switchable(name, rule)
        self.off[name] = rule

    def switch_on(self, name: str) -> None:
        """Switch an expert on here, and nowhere else."""
        self._fusion.require_switchable(name)
        self.off.pop(name, None)


def see(
    pixels: Mapping[str, Tensor], tower: Tower, experts: Mapping[str, tuple[FrozenExpert, Align]]
) -> dict[str, Tensor]:
    """Return CLIP's v [B, N, D], if its pixels are given, and by name each expert's u_k [B, N, C_k], float32.

    Args:
        pixels: [B, 3, H, W] for CLIP and each expert, as each wants them.
        tower: where it lies is where everything is given.
        experts: with their alignments, in the order of what is returned.
    """
    home = tower.device
    places = ({CLIP: home} if CLIP in pixels else {}) | {key: one.device or home for key, (one, _) in experts.items()}
    given = sent(pixels, places)
    tasks = {CLIP: lambda: tower(given[CLIP]).patches.float()} if CLIP in given else {}
    tasks |= {key: partial(_features, *pair, given[key], home) for key, pair in experts.items()}
    return run_beside(tasks, {key: places[key] for key, (expert, _) in experts.items() if expert.own_stream})


def _features(expert: FrozenExpert, align: Align, pixels: Tensor, home: torch.device) -> Tensor:
    outputs = {name: arrived(value, home) for name, value in expert(pixels).items()}
    with no_autocast(home.type):  # what is aligned is what a feature cache keeps
        return align(outputs)
