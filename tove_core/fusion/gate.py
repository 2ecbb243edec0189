"""The token-aware gate: CLIP's tokens decide, token by token, how much of each expert is added."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.config import GateConfig
from tove_core.errors import ConfigError
from tove_core.fusion.noise import OWN_GATES, sample_noise


class Gate(nn.Module):
    """LayerNorm and a small MLP on v [B, N, D], one row of the last layer per expert.

    Rows are kept by expert name, so that an expert can join, leave, or stay behind as a ghost that only counts in the
    softmax. All rows start at zero: the first gates are equal.

    Args:
        width: D.
        experts: who share the softmax, ghosts included.
        own: experts whose row stands apart: its logit moves no other expert's weight.
    """

    def __init__(self, width: int, experts: Sequence[str], config: GateConfig, own: Sequence[str] = ()) -> None:
        super().__init__()
        self.config = config
        self.heat = 1.0
        """Factor on the temperature of rows that learn, which training lets fall to 1."""
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, config.hidden)
        self.rows = nn.ModuleDict({name: self._row() for name in experts})
        self.null = self._row() if config.null else None
        self.own = nn.ModuleDict({name: self._row() for name in own})

    def add(self, name: str) -> None:
        """Give an expert a row of its own, at zero: weight 1."""
        row = self._row()
        self.own[name] = row.to(self.hidden.weight)

    def _row(self) -> nn.Linear:
        row = nn.Linear(self.config.hidden, 1)
        nn.init.zeros_(row.weight)
        nn.init.zeros_(row.bias)
        return row

    def forward(
        self,
        tokens: Tensor,
        experts: Sequence[str],
        *,
        without: Collection[str] = (),
        keys: Tensor | None = None,
        noise: float = 0.0,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, N, E]: the rows of `experts` in that order, then ghosts, then the null option.

        Args:
            tokens: v [B, N, D].
            experts: the K experts whose terms are mixed.
            without: rows left out altogether.
            keys: one integer per sample; noise depends on nothing else, so it is the same however samples are batched.
            noise: standard deviation added to the logits.
            features: what `features` gives for the tokens, where it is known.

        Raises:
            ConfigError: noise is wanted and no keys are given.
        """
        _check_noise(noise, keys)
        ghosts = [name for name in self.rows if name not in experts and name not in without]
        rows = [self.rows[name] for name in (*experts, *ghosts)] + ([self.null] if self.null is not None else [])
        weight = torch.cat([row.weight for row in rows])  # type: ignore[misc]
        bias = torch.cat([row.bias for row in rows])  # type: ignore[misc]
        features = self.features(tokens) if features is None else features
        # Rows that are frozen, beside which an expert that joined learns, stay as they were trained.
        heat = self.heat if any(p.requires_grad for p in self.rows.parameters()) else 1.0
        logits = F.linear(features, weight, bias) / (self.config.temperature * heat)
        if noise > 0 and keys is not None:
            logits = logits + noise * sample_noise(keys, logits.shape[1:], logits.device)
        return logits

    def own_logits(
        self,
        tokens: Tensor,
        experts: Sequence[str],
        *,
        keys: Tensor | None = None,
        noise: float = 0.0,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, N, K] of experts whose row stands apart; arguments and errors as for `forward`."""
        _check_noise(noise, keys)
        features = self.features(tokens) if features is None else features
        # Row by row: in one product a row's last bit could depend on how many there are, and with it an old answer.
        logits = torch.cat([self.own[name](features) for name in experts], -1)
        logits = logits / (self.config.temperature * self.heat)
        if noise > 0 and keys is not None:
            # A column per row there is, active or not: an expert's noise does not depend on which others are on.
            drawn = sample_noise(keys, (tokens.shape[1], len(self.own)), logits.device, stream=OWN_GATES)
            logits = logits + noise * drawn[..., [list(self.own).index(name) for name in experts]]
        return logits

    def features(self, tokens: Tensor) -> Tensor:
        """Return what all rows are given of v, [B, N, `config.hidden`]."""
        return F.gelu(self.hidden(self.norm(tokens)))


def _check_noise(noise: float, keys: Tensor | None) -> None:
    if noise > 0 and keys is None:
        raise ConfigError(f"gate noise {noise} was asked for without keys; give one integer per sample")
