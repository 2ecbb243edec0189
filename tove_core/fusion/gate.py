"""The token-aware gate: CLIP's tokens decide, token by token, how much of each expert is added."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.config import GateConfig
from tove_core.errors import ConfigError
from tove_core.fusion.noise import sample_noise


class Gate(nn.Module):
    """LayerNorm and a small MLP on v [B, N, D], one row of the last layer per expert.

    Rows are kept by expert name, so that an expert can join, leave, or stay behind as a ghost that only counts in the
    softmax. All rows start at zero: the first gates are equal.
    """

    def __init__(self, width: int, experts: Sequence[str], config: GateConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, config.hidden)
        self.rows = nn.ModuleDict({name: self._row() for name in experts})
        self.null = self._row() if config.null else None

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
    ) -> Tensor:
        """Return logits [B, N, E]: the rows of `experts` in that order, then ghosts, then the null option.

        Args:
            tokens: v [B, N, D].
            experts: the K experts whose terms are mixed.
            without: rows left out altogether.
            keys: one integer per sample; noise depends on nothing else, so it is the same however samples are batched.
            noise: standard deviation added to the logits.

        Raises:
            ConfigError: noise is wanted and no keys are given.
        """
        if noise > 0 and keys is None:
            raise ConfigError(f"gate noise {noise} was asked for without keys; give one integer per sample")
        ghosts = [name for name in self.rows if name not in experts and name not in without]
        rows = [self.rows[name] for name in (*experts, *ghosts)] + ([self.null] if self.null is not None else [])
        weight = torch.cat([row.weight for row in rows])  # type: ignore[misc]
        bias = torch.cat([row.bias for row in rows])  # type: ignore[misc]
        logits = F.linear(F.gelu(self.hidden(self.norm(tokens))), weight, bias) / self.config.temperature
        if noise > 0 and keys is not None:
            logits = logits + noise * sample_noise(keys, logits.shape[1:], logits.device)
        return logits
