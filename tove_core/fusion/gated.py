"""The fusion tove is about: experts weighted token by token by a gate on CLIP's own tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tove_kernels import gated_activation_mix_and_weights

from tove_core.config import FusionConfig, Rule
from tove_core.fusion.gate import Gate
from tove_core.fusion.transfer import Transfer


class GatedTransfer(Transfer):
    """The token-aware gate (`gate`), or every expert with weight 1 (`uniform`)."""

    def __init__(
        self, width: int, experts: Mapping[str, int], config: FusionConfig, ghosts: Sequence[str] = ()
    ) -> None:
        super().__init__(width, experts, config)
        self.gate = Gate(width, [*experts, *ghosts], config.gate) if config.kind == "gate" else None

    @property
    def has_softmax(self) -> bool:
        """True for a softmax gate."""
        return self.gate is not None and self.config.gate.activation == "softmax"

    @property
    def ghosts(self) -> list[str]:
        """Gate rows without an expert: they only count in the softmax."""
        return [] if self.gate is None else [name for name in self.gate.rows if name not in self.first]

    def logits(self, tokens: Tensor, keys: Tensor | None = None, noise: float = 0.0) -> Tensor:
        """Return gate logits [B, N, E]: active experts, then experts off by `zero` and ghosts, then null."""
        if self.gate is None:
            return tokens.new_zeros(*tokens.shape[:2], len(self.active))
        gone = [name for name, rule in self.off.items() if rule == "renormalise"]
        return self.gate(tokens, self.active, without=gone, keys=keys, noise=noise)

    def prune(self) -> list[str]:
        """Forget experts that are off; those off by `zero` leave their gate row behind as a ghost."""
        if self.gate is not None:
            for name in [name for name in self.gate.rows if self.off.get(name) == "renormalise"]:
                del self.gate.rows[name]
        return super().prune()

    def _mix(
        self, tokens: Tensor, features: Mapping[str, Tensor], mask: Tensor | None, keys: Tensor | None, noise: float
    ) -> tuple[Tensor, Tensor | None]:
        layers: list[nn.Linear] = [self.first[name] for name in self.active]  # type: ignore[misc]  # all are Linear
        hidden = [F.linear(features[name], layer.weight) for name, layer in zip(self.active, layers, strict=True)]
        rule: Rule = self.config.rule if self.gate is not None else "zero"
        logits = self.logits(tokens, keys, noise)
        on = self._masked(mask)
        kind = self.config.gate.activation if self.gate is not None else "softmax"
        mix, weights = gated_activation_mix_and_weights(
            hidden, [layer.bias for layer in layers], logits, mask=on, rule=rule, activation=kind
        )
        return mix, self._all_columns(weights)

    @torch.no_grad()
    def terms(self, tokens: Tensor, features: Mapping[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
        """Return, for each active expert, its name, gate [B, N] and activated hidden tokens [B, N, H]."""
        gates = self(tokens, features).gates
        found = []
        for name in self.active:
            hidden = F.gelu(self.first[name](features[name]))
            found.append((name, gates[..., self.experts.index(name)], hidden))
        return found

    def _all_columns(self, weights: Tensor) -> Tensor:
        if len(self.active) == len(self.experts):
            return weights
        full = weights.new_zeros(*weights.shape[:2], len(self.experts))
        full[..., [self.experts.index(name) for name in self.active]] = weights
        return full
