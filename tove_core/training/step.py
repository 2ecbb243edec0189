"""One training step: fused tokens to answer loss, plus the term that keeps every expert explored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tove_core.fusion import Fused, Transfer
from tove_core.fusion.noise import sample_mask
from tove_core.language.base import Decoder, Texts
from tove_core.model import CLIP


class StepOutput(NamedTuple):
    """Sums over the batch, so that they can be added over processes before they are divided."""

    loss: Tensor
    """Summed cross-entropy over answer tokens."""
    tokens: Tensor
    """How many answer tokens there were."""
    mass: Tensor | None
    """Gate mass per expert [K] as it was mixed, summed over samples and tokens; None without a gate."""
    gates: Tensor | None = None
    """The gate's own weights [B, N, K]: without noise and with no expert left out, without gradient."""
    per_sample: Tensor | None = None
    """The loss of each sample [B], without gradient."""


class TransferStep(nn.Module):
    """The trainable parts together: what accelerate prepares."""

    def __init__(self, fusion: Transfer | None, decoder: Decoder) -> None:
        super().__init__()
        self.fusion = fusion
        self.decoder = decoder

    def forward(
        self,
        features: Mapping[str, Tensor],
        prompts: Texts,
        targets: Sequence[str] | None = None,
        *,
        keys: Tensor,
        noise: float = 0.0,
        dropout: float = 0.0,
    ) -> StepOutput:
        """Return the sums for one batch.

        Args:
            features: `clip` v [B, N, D] and u_k [B, N, C_k] by expert.
            prompts, targets: B texts each; or encoded texts, and None.
            keys: [B], one integer per sample that fixes its noise and dropped experts.
            noise: standard deviation of the gate's noise.
            dropout: chance that a sample goes without a given expert.
        """
        fused = self._fuse(features, keys, noise, dropout)
        output = self.decoder(fused.tokens, prompts, targets)
        mass = None if fused.gates is None else _mass(fused.gates)
        gates = None if fused.gates is None else self._own_weights(features[CLIP], fused.gates, noise, dropout)
        return StepOutput(output.loss_sum, output.token_count, mass, gates, output.loss_per_sample.detach())

    @torch.no_grad()
    def _own_weights(self, tokens: Tensor, gates: Tensor, noise: float, dropout: float) -> Tensor | None:
        # Samples that go without an expert say nothing about what the gate chooses: its weights are asked for anew.
        explored = self.fusion is not None and (noise > 0 or dropout > 0) and bool(self.fusion.active)
        own = self.fusion.weights(tokens) if explored and self.fusion is not None else gates.detach()
        return None if own is None else own.float()

    @torch.no_grad()
    def mass(self, tokens: Tensor, keys: Tensor, noise: float, dropout: float) -> Tensor | None:
        """Return the gate mass [K] that `forward` would give, of v [B, N, D] alone and without gradient."""
        if self.fusion is None:
            return None
        mask = self._mask(keys, dropout, tokens.device)
        gates = self.fusion.weights(tokens, mask=mask, keys=keys, noise=noise)
        return None if gates is None else _mass(gates)

    def _fuse(self, features: Mapping[str, Tensor], keys: Tensor, noise: float, dropout: float) -> Fused:
        if self.fusion is None:
            return Fused(features[CLIP], None)
        mask = self._mask(keys, dropout, features[CLIP].device)
        return self.fusion(features[CLIP], features, mask=mask, keys=keys, noise=noise)

    def _mask(self, keys: Tensor, dropout: float, device: torch.device) -> Tensor | None:
        if self.fusion is None or dropout <= 0 or not self.fusion.experts:
            return None
        return sample_mask(keys, len(self.fusion.experts), dropout).to(device)


def _mass(gates: Tensor) -> Tensor:
    return gates.float().sum((0, 1))


def importance(mass: Tensor) -> Tensor:
    """Return the squared coefficient of variation of gate mass (Shazeer et al. 2017, eq. 6): [], 0 when all are equal.

    Args:
        mass: [K], gates summed over the tokens and samples of the global batch; of experts that share a softmax.
    """
    if len(mass) < 2:
        return mass.sum() * 0
    return mass.var(unbiased=False) / mass.mean().square().clamp(min=torch.finfo(mass.dtype).tiny)
