"""The fusion tove is about: experts weighted token by token by a gate on CLIP's own tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tove_kernels import gate_weights, gated_activation_mix_and_weights

from tove_core.config import FusionConfig, Rule
from tove_core.fusion.checks import check_options
from tove_core.fusion.gate import Gate
from tove_core.fusion.kept import first_layer
from tove_core.fusion.transfer import Transfer


class GatedTransfer(Transfer):
    """The token-aware gate (`gate`), or every expert with weight 1 (`uniform`).

    Experts share one softmax, but for those in `own`, each of which has a gate of its own: twice the sigmoid of its
    row, so that its weight is 1 at the start as well, and no other weight depends on it. An expert that joins a
    trained hub gets one. The two rules for switching off are the same for it, and it leaves no ghost.
    """

    def __init__(
        self,
        width: int,
        experts: Mapping[str, int],
        config: FusionConfig,
        ghosts: Sequence[str] = (),
        own: Sequence[str] = (),
    ) -> None:
        super().__init__(width, experts, config)
        shared = [name for name in experts if name not in own]
        self.gate = Gate(width, [*shared, *ghosts], config.gate, own) if config.kind == "gate" else None

    @property
    def has_softmax(self) -> bool:
        """True for a softmax gate."""
        return self.gate is not None and self.config.gate.activation == "softmax"

    @property
    def ghosts(self) -> list[str]:
        """Gate rows without an expert: they only count in the softmax."""
        if self.gate is None:
            return []
        return [name for name in self.gate.rows if name not in self.first or name in self.gate.own]

    @property
    def apart(self) -> list[str]:
        """Experts whose gate stands apart: no other expert's weight depends on it."""
        return [] if self.gate is None else [name for name in self.experts if name in self.gate.own]

    def logits(
        self, tokens: Tensor, keys: Tensor | None = None, noise: float = 0.0, features: Tensor | None = None
    ) -> Tensor:
        """Return logits [B, N, E] of the shared gate: active experts, experts off by `zero` and ghosts, then null.

        Arguments are those of `Gate.forward`.
        """
        shared = [name for name in self.active if name not in self.apart]
        if self.gate is None:
            return tokens.new_zeros(*tokens.shape[:2], len(shared))
        # A ghost may bear the name of an expert that joined anew; that one's being off says nothing about the ghost.
        gone = [name for name, rule in self.off.items() if rule == "renormalise" and name not in self.gate.own]
        return self.gate(tokens, shared, without=gone, keys=keys, noise=noise, features=features)

    def add(self, name: str, size: int) -> None:
        """Let an expert join so that nothing changes, with a gate of its own; see `Transfer.add`."""
        super().add(name, size)
        if self.gate is not None:
            self.gate.add(name)

    def of_expert(self, name: str) -> list[nn.Parameter]:
        """Return the parameters that belong to one expert alone: its first linear and its row of the gate."""
        found = super().of_expert(name)
        if self.gate is not None:
            found += (self.gate.own if name in self.gate.own else self.gate.rows)[name].parameters()
        return found

    def prune(self) -> list[str]:
        """Forget experts that are off; those off by `zero` leave their row of the shared gate behind as a ghost."""
        if self.gate is not None:
            apart = set(self.apart)
            for name, rule in self.off.items():
                if name in apart:
                    del self.gate.own[name]
                elif rule == "renormalise":
                    del self.gate.rows[name]
        return super().prune()

    def _mix(
        self, tokens: Tensor, features: Mapping[str, Tensor], mask: Tensor | None, keys: Tensor | None, noise: float
    ) -> tuple[Tensor, Tensor | None]:
        shared, apart = self._sorts
        seen = self._seen(tokens)
        found = []
        if shared:
            logits = self.logits(tokens, keys, noise if self._gate_learns else 0.0, seen)
            options: dict[str, Any] = {"rule": self._rule, "activation": self._activation}
            on = self._masked(mask, shared)
            hidden, bias = self._hidden(shared, features)
            found.append(gated_activation_mix_and_weights(hidden, bias, logits, mask=on, **options))
        if apart and self.gate is not None:
            logits = self.gate.own_logits(tokens, apart, keys=keys, noise=noise, features=seen)
            on = self._masked(mask, apart)
            hidden, bias = self._hidden(apart, features)
            found.append(gated_activation_mix_and_weights(hidden, bias, logits, mask=on, activation="sigmoid"))
        mixes, weights = zip(*found, strict=True)
        mix = mixes[0] if len(mixes) == 1 else mixes[0] + mixes[1]
        gates = weights[0] if len(weights) == 1 else torch.cat(weights, -1)
        return mix, self._all_columns(gates, [*shared, *apart])

    @property
    def _sorts(self) -> tuple[list[str], list[str]]:
        """The experts that are on: those that share the gate, and those whose gate stands apart."""
        apart = self.apart
        return [n for n in self.active if n not in apart], [n for n in self.active if n in apart]

    @property
    def _rule(self) -> Rule:
        return self.config.rule if self.gate is not None else "zero"

    @property
    def _activation(self) -> Literal["softmax", "sigmoid"]:
        return self.config.gate.activation if self.gate is not None else "softmax"

    def _seen(self, tokens: Tensor) -> Tensor | None:
        """Return what all rows of the gate go by; None where each sort of them is to work it out for itself.

        That is where it is trained: the gradients of the two would be added elsewhere, and differ in their last bit.
        """
        learns = torch.is_grad_enabled() and self.gate is not None and self.gate.hidden.weight.requires_grad
        return None if self.gate is None or learns else self.gate.features(tokens)

    @property
    def _gate_learns(self) -> bool:
        """Whether noise explores anything: on rows that are frozen it would only blur what the others learn beside."""
        return self.gate is not None and any(p.requires_grad for p in self.gate.rows.parameters())

    def _hidden(self, names: Sequence[str], features: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return W_k u_k [B, N, H] and b_k [H] of some experts."""
        layers: list[nn.Linear] = [self.first[name] for name in names]  # type: ignore[misc]  # all are Linear
        hidden = [first_layer(layer, features[name]) for name, layer in zip(names, layers, strict=True)]
        return hidden, [layer.bias for layer in layers]

    @torch.no_grad()
    def weights(
        self, tokens: Tensor, *, mask: Tensor | None = None, keys: Tensor | None = None, noise: float = 0.0
    ) -> Tensor | None:
        """Return the gates [B, N, K] that `forward` would, as `Transfer.weights` says."""
        check_options(mask, keys, noise, tokens.shape[0], self.experts)
        if not self.active:
            return None
        shared, apart = self._sorts
        tokens, found = self.own(tokens), []
        seen = self._seen(tokens)
        if shared:
            logits = self.logits(tokens, keys, noise if self._gate_learns else 0.0, seen)
            on = self._masked(mask, shared)
            found.append(gate_weights(logits, len(shared), mask=on, rule=self._rule, activation=self._activation))
        if apart and self.gate is not None:
            logits = self.gate.own_logits(tokens, apart, keys=keys, noise=noise, features=seen)
            found.append(gate_weights(logits, len(apart), mask=self._masked(mask, apart), activation="sigmoid"))
        return self._all_columns(found[0] if len(found) == 1 else torch.cat(found, -1), [*shared, *apart])

    @torch.no_grad()
    def terms(
        self, tokens: Tensor, features: Mapping[str, Tensor], gates: Tensor | None = None
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Return, for each active expert, its name, gate [B, N] and activated hidden tokens [B, N, H].

        Args:
            tokens: v [B, N, D].
            features: u_k [B, N, C_k] by name.
            gates: [B, N, K] as a pass over these gave them; None: they are computed.
        """
        gates = self(tokens, features).gates if gates is None else gates
        if gates is None:  # no expert is on
            return []
        found = []
        for name in self.active:
            hidden = F.gelu(self.first[name](self.own(features[name])))
            found.append((name, gates[..., self.experts.index(name)], hidden))
        return found

    def _all_columns(self, weights: Tensor, names: list[str]) -> Tensor:
        if names == self.experts:
            return weights
        full = weights.new_zeros(*weights.shape[:2], len(self.experts))
        full[..., [self.experts.index(name) for name in names]] = weights
        return full
