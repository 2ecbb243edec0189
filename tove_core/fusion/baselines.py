"""Fusions to compare the gate with, at equal trainable size: concatenation, and an MLP on CLIP alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.config import FusionConfig
from tove_core.errors import ConfigError
from tove_core.fusion.checks import check_options, check_width
from tove_core.fusion.transfer import Fused, Transfer


class ConcatTransfer(Transfer):
    """Baseline: one MLP over all experts' channels together, v + W_s · GELU(Σ_k W_k u_k + b)."""

    def __init__(self, width: int, experts: Mapping[str, int], config: FusionConfig) -> None:
        super().__init__(width, experts, config)
        self.bias = nn.Parameter(torch.zeros(self.hidden))

    def _first_linear(self, size: int) -> nn.Linear:
        return nn.Linear(size, self.hidden, bias=False)

    def _mix(
        self, tokens: Tensor, features: Mapping[str, Tensor], mask: Tensor | None, keys: Tensor | None, noise: float
    ) -> tuple[Tensor, Tensor | None]:
        total = self.bias.expand(*tokens.shape[:2], -1)
        on = self._masked(mask, self.active)
        for k, name in enumerate(self.active):
            term = self.first[name](features[name])
            total = total + (term if on is None else torch.where(on[:, k, None, None], term, torch.zeros_like(term)))
        hidden = F.gelu(total)
        if on is not None:  # a sample without any expert gets v itself, not what the bias alone would add
            hidden = torch.where(on.any(1)[:, None, None], hidden, torch.zeros_like(hidden))
        return hidden, None


class ClipMlp(Transfer):
    """Baseline without experts: v + W_s · GELU(W v + b)."""

    SELF = "clip"

    def _inputs(self, experts: Mapping[str, int]) -> Mapping[str, int]:
        return {self.SELF: self.width}

    @property
    def experts(self) -> list[str]:
        """None: the MLP reads CLIP's own tokens."""
        return []

    def check_joining(self, name: str) -> None:
        """Refuse: nothing of an expert would be read.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"fusion.kind 'clip-mlp' uses no experts, so {name!r} cannot join; train one of kind 'gate'")

    def forward(
        self,
        tokens: Tensor,
        features: Mapping[str, Tensor],
        *,
        mask: Tensor | None = None,
        keys: Tensor | None = None,
        noise: float = 0.0,
    ) -> Fused:
        """Add what an MLP makes of v; features are not read, a mask has no columns, and there is no gate for noise."""
        check_options(mask, keys, noise, tokens.shape[0], self.experts)
        check_width(tokens, self.width)
        added = self.second(F.gelu(self.first[self.SELF](self.own(tokens))))
        return Fused(tokens + added.to(tokens.dtype), None)
