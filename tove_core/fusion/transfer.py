"""Residual knowledge transfer: v' = v + W_s · Σ_k g_k · GELU(W_k u_k + b_k), and the baselines it is compared with.

The second linear is shared by all experts and has no bias, so it commutes with the mix and runs once:
K times less work than projecting every expert (ToVE shares it; its order here is ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from tove_core.config import FusionConfig, Rule
from tove_core.errors import ConfigError, ContractError, UnknownExpertError
from tove_core.fusion.checks import check_options, check_width, described
from tove_core.fusion.size import projector_hidden

_HELD: ContextVar[Mapping[int, dict[str, Rule]]] = ContextVar("held", default={})  # noqa: B039  # never written to
"""Of fusions, by their `id`: what is off for whoever runs in this context, whatever is switched meanwhile."""


class Fused(NamedTuple):
    """Enhanced tokens [B, N, D] and, from a gate, the weights [B, N, K] in the order of `Transfer.experts`."""

    tokens: Tensor
    gates: Tensor | None


def without_experts(
    tokens: Tensor, *, mask: Tensor | None = None, keys: Tensor | None = None, noise: float = 0.0
) -> Fused:
    """Return v as it is, for a model that has nothing to fuse; arguments are held to what `Transfer.forward` takes.

    Raises:
        ConfigError: as for it.
    """
    check_options(mask, keys, noise, tokens.shape[0], [])
    return Fused(tokens, None)


class Transfer(nn.Module):
    """What every fusion shares: which experts are on, the shared second linear, and the identity when all are off.

    A model holds it as `fusion` (None without experts). All of its parameters are trained, nothing else of the model
    but the decoder's is.

    Attributes:
        experts: names of the K experts it holds, on or off: the order of gates and of columns of a mask.
        active: those that are on.
        off: those that are off, each with the rule; within `holding`, those that were given there.
        width: D, channels of a token.
        hidden: H, width between the two linears.
        config: the resolved `FusionConfig`.
    """

    def __init__(self, width: int, experts: Mapping[str, int], config: FusionConfig) -> None:
        super().__init__()
        self.config, self.width = config, width
        hidden = projector_hidden(config, width, list(experts.values()))
        self.hidden = hidden
        self.first = nn.ModuleDict({name: self._first_linear(size) for name, size in self._inputs(experts).items()})
        self.second = nn.Linear(hidden, width, bias=False)
        self._off: dict[str, Rule] = {}
        if config.init == "zero":
            nn.init.zeros_(self.second.weight)

    def _inputs(self, experts: Mapping[str, int]) -> Mapping[str, int]:
        return experts

    def _first_linear(self, size: int) -> nn.Linear:
        return nn.Linear(size, self.hidden)

    @property
    def experts(self) -> list[str]:
        """The experts this fusion holds, on or off, in the order of the gates."""
        return list(self.first)

    @property
    def off(self) -> dict[str, Rule]:
        """The experts that are off, each with the rule."""
        return _HELD.get().get(id(self), self._off)

    @contextmanager
    def holding(self, off: Mapping[str, Rule]) -> Iterator[None]:
        """Let these experts be off within the block, whatever is switched meanwhile, and for this thread alone."""
        token = _HELD.set({**_HELD.get(), id(self): dict(off)})
        try:
            yield
        finally:
            _HELD.reset(token)

    @property
    def has_softmax(self) -> bool:
        """Whether experts share a softmax, so that the two switch-off rules differ."""
        return False

    @property
    def ghosts(self) -> list[str]:
        """Gate rows without an expert: they only count in the softmax."""
        return []

    @property
    def apart(self) -> list[str]:
        """Experts whose gate stands apart: no other expert's weight depends on it."""
        return []

    @property
    def active(self) -> list[str]:
        """The experts that are on."""
        return [name for name in self.experts if name not in self.off]

    def forward(
        self,
        tokens: Tensor,
        features: Mapping[str, Tensor],
        *,
        mask: Tensor | None = None,
        keys: Tensor | None = None,
        noise: float = 0.0,
    ) -> Fused:
        """Add the experts' residual to v.

        Args:
            tokens: v [B, N, D].
            features: u_k [B, N, C_k] by expert name; those of experts that are off are not read.
            mask: [B, K] over `experts`, False where a sample goes without an expert; switched off by `config.rule`.
            keys: [B], the samples' keys for noise, integers.
            noise: standard deviation of the gate's noise.

        Returns:
            v' [B, N, D] in the type of v, computed in that of the parameters; v itself, bit for bit, when every expert
            is off. With `config.replace` it is the experts' part alone.

        Raises:
            ContractError: features of an expert that is on are missing or of another shape, or v is of another width.
            ConfigError: the mask or the keys have another shape or type, or noise is below 0 or comes without keys.
        """
        # Of the shape, for `len` would fix the batch size of a program that is exported.
        check_options(mask, keys, noise, tokens.shape[0], self.experts)
        if not self.active:
            return Fused(tokens, None)
        self._check(tokens, features)
        mix, gates = self._mix(self.own(tokens), self._own_all(features), mask, keys, noise)
        added = self.second(mix).to(tokens.dtype)
        return Fused(added if self.config.replace else tokens + added, gates)

    def own(self, values: Tensor) -> Tensor:
        """Return values in the type of the parameters: whoever converts the fusion still gives it float32."""
        return values.to(self.second.weight.dtype)

    def _own_all(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.own(features[name]) for name in self.active}

    def _check(self, tokens: Tensor, features: Mapping[str, Tensor]) -> None:
        check_width(tokens, self.width)
        for name in self.active:
            wanted, given = (*tokens.shape[:2], self.first[name].in_features), features.get(name)
            if not isinstance(given, Tensor) or tuple(given.shape) != wanted or not given.is_floating_point():
                raise ContractError(
                    f"features of expert {name!r} are {described(given)}; wanted aligned tokens {list(wanted)}, floats"
                )

    def _mix(
        self, tokens: Tensor, features: Mapping[str, Tensor], mask: Tensor | None, keys: Tensor | None, noise: float
    ) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    def _masked(self, mask: Tensor | None, experts: Sequence[str]) -> Tensor | None:
        return None if mask is None else mask[:, [self.experts.index(name) for name in experts]]

    @torch.no_grad()
    def calibrate(self, tokens: Tensor, features: Mapping[str, Tensor]) -> None:
        """Scale the second linear so that the residual has `config.residual` of the rms of v (init `rms` only).

        With `config.replace` what stands for v gets its whole rms.

        Raises:
            ConfigError: there is no residual to scale, because every expert is off or gives nothing.
        """
        if self.config.init == "zero":
            return
        before = torch.zeros_like(tokens) if self.config.replace else tokens
        residual = (self(tokens, features).tokens - before).float().square().mean().sqrt()
        if residual == 0:
            on = ", ".join(self.active) or "none"
            raise ConfigError(
                f"the residual is zero and cannot be scaled (experts on: {on}); switch an expert on first"
            )
        share = 1.0 if self.config.replace else self.config.residual
        self.second.weight.mul_(share * tokens.float().square().mean().sqrt() / residual)

    def weights(
        self, tokens: Tensor, *, mask: Tensor | None = None, keys: Tensor | None = None, noise: float = 0.0
    ) -> Tensor | None:
        """Return the gates that `forward` would, [B, N, K] without gradient; None: no gate, or no expert is on.

        Without options they are the weights of an ordinary forward pass: no noise, and no expert left out of a sample.
        Only v [B, N, D] is looked at, so it costs next to nothing.

        Raises:
            ConfigError: as for `forward`.
        """
        return None

    def terms(
        self, tokens: Tensor, features: Mapping[str, Tensor], gates: Tensor | None = None
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Return, for each active expert of a gated fusion, its name, gate [B, N] and hidden tokens [B, N, H]."""
        return []

    def switch_off(self, name: str, rule: Rule) -> None:
        """Switch an expert off by a rule; its parameters stay."""
        self.require_switchable(name, rule)
        self._off[name] = rule

    def switch_on(self, name: str) -> None:
        """Switch an expert on again."""
        self.require_switchable(name)
        self._off.pop(name, None)

    def require_switchable(self, name: str, rule: Rule = "zero") -> None:
        """Refuse an expert that cannot be switched off by a rule, or on.

        Raises:
            UnknownExpertError: there is no such expert.
            ConfigError: there is no such rule, or it does not suit this fusion.
        """
        if rule not in get_args(Rule):
            raise ConfigError(f"there is no rule {rule!r} for detaching; choose {' or '.join(get_args(Rule))}")
        self._known(name)
        if rule == "renormalise" and not self.has_softmax:
            raise ConfigError(f"fusion {self.config.kind!r} has no softmax to renormalise; use rule 'zero'")

    def check_joining(self, name: str) -> None:
        """Refuse an expert that could not join, before it is loaded.

        Raises:
            ConfigError: one of that name is there already, or the shared linear is zero, so that it could not learn.
        """
        if name in self.first:
            raise ConfigError(
                f"the model holds an expert {name!r} already; take it out first: tove detach RUN {name} --out FOLDER"
            )
        if not self.second.weight.any():
            raise ConfigError(
                f"expert {name!r} cannot learn through the shared linear, which is zero; train the model first"
            )

    def add(self, name: str, size: int) -> None:
        """Let an expert of aligned width `size` join so that nothing changes: its first linear starts at zero.

        GELU(0) is 0 and its slope there is 0.5, so the new term is exactly nothing and yet learns from the first step.

        Raises:
            ConfigError: as for `check_joining`.
        """
        self.check_joining(name)
        layer = self._first_linear(size).to(self.second.weight)
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        self.first[name] = layer

    def learned(self) -> dict[str, nn.Parameter]:
        """Return all of its parameters by name, whether or not they ask for gradients now."""
        return dict(self.named_parameters())

    def of_expert(self, name: str) -> list[nn.Parameter]:
        """Return the parameters that belong to one expert alone: its first linear and, with a gate, its row."""
        self._known(name)
        return list(self.first[name].parameters())

    def prune(self) -> list[str]:
        """Forget the parameters of experts that are off, ghost gate rows aside; return their names."""
        gone = [name for name in self.experts if name in self._off]
        for name in gone:
            del self.first[name], self._off[name]
        return gone

    def _known(self, name: str) -> None:
        if name not in self.experts:
            raise UnknownExpertError(f"the model holds no expert {name!r}; it has: {', '.join(self.experts) or 'none'}")
