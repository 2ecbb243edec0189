"""Switch each expert off in turn and see what it costs. This is the truth that proxies are measured against.

Gate mass is given too, and is no measure of contribution: a random network has been seen to get the most.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from tove_core.config import Rule
from tove_core.errors import ConfigError
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.probe import require_rule
from tove_core.model import CLIP, ToveModel
from tove_core.training.examples import Examples


@dataclass(frozen=True)
class Contribution:
    """What one expert contributes.

    Attributes:
        expert: its name in the model.
        loss: nats per answer token that its absence costs; negative: the model is better without it.
        norm: mean norm of its gated term before the shared linear; a proxy that does not always hold.
        mass: mean gate; 1 is the weight of equal gates. Not a measure of contribution.
    """

    expert: str
    loss: float
    norm: float | None
    mass: float | None


def contributions(
    model: ToveModel, examples: Examples, *, rule: Rule | None = None, batch_size: int = 128
) -> list[Contribution]:
    """Return every active expert's contribution on some samples, the largest loss first; nothing where none is on.

    Args:
        rule: how an expert is switched off; None: as the model is configured.

    Raises:
        ConfigError: the model has no decoder, or the rule does not suit its fusion.
    """
    if model.decoder is not None and not model.active_experts:
        return []
    require_measurable(model, rule)
    full = mean_loss(model, examples, batch_size=batch_size)
    norms, masses = _gate_statistics(model, examples, batch_size)
    found = []
    for name in model.active_experts:
        model.detach(name, rule)
        try:
            without = mean_loss(model, examples, batch_size=batch_size)
        finally:
            model.attach(name)
        found.append(Contribution(name, without - full, norms.get(name), masses.get(name)))
    return sorted(found, key=lambda one: -one.loss)


def require_measurable(model: ToveModel, rule: Rule | None) -> None:
    """Refuse a model whose contributions cannot be measured, before its samples are encoded.

    Raises:
        ConfigError: it has no decoder, no expert is on, or the rule does not suit its fusion.
    """
    if model.decoder is None:
        raise ConfigError("contributions are measured by the language loss; the model was built with decoder=None")
    if not model.active_experts:
        raise ConfigError("the model has no expert on, so that there are no contributions; give a run with experts")
    require_rule(model, rule)


@torch.no_grad()
def _gate_statistics(
    model: ToveModel, examples: Examples, batch_size: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean norm of the gated hidden term, and mean gate, by expert; empty where there is no gate."""
    fusion = model.fusion
    if fusion is None:
        return {}, {}
    norms, masses = defaultdict[str, float](float), defaultdict[str, float](float)
    tokens = 0
    indices = range(min(len(examples), 4 * batch_size))
    for places in examples.alike(indices):
        features = examples.features(places)
        count = features[CLIP].shape[:2].numel()
        tokens += count
        for name, gate, hidden in fusion.terms(features[CLIP], features):
            norms[name] += count * (gate[..., None] * hidden).norm(dim=-1).mean().item()
            masses[name] += count * gate.mean().item()
    return {name: norm / tokens for name, norm in norms.items()}, {name: m / tokens for name, m in masses.items()}
