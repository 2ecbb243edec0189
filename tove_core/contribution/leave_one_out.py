"""Switch each expert off in turn and see what it costs. This is the truth that proxies are measured against.

Gate mass is given too, and is no measure of contribution: a random network has been seen to get the most.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from tove_core.config import Rule
from tove_core.errors import ConfigError
from tove_core.evaluation.probe import require_rule, switched_off
from tove_core.fusion import Fused
from tove_core.fusion.kept import first_layers_kept
from tove_core.language.base import Decoder
from tove_core.model import CLIP, ToveModel
from tove_core.progress import Display
from tove_core.selecting import every_expert
from tove_core.training.answers import answer_loss, answer_texts, require_answers
from tove_core.training.examples import Examples
from tove_core.training.lengths import fitting
from tove_core.training.shown import Shown


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


@torch.no_grad()
def contributions(
    model: ToveModel, examples: Examples, *, rule: Rule | None = None, batch_size: int = 128, quiet: bool = True
) -> list[Contribution]:
    """Return every active expert's contribution on some samples, the largest loss first; nothing where none is on.

    Every image is seen once, and each expert is switched off on its batch. Samples that are too long for the language
    model, or whose image turns out unreadable, are left out, with a warning. A model that selects experts is measured
    with all of them on every image, with a note.

    Args:
        rule: how an expert is switched off; None: as the model is configured.
        batch_size: samples, at most, that are seen and scored together.
        quiet: show no progress.

    Raises:
        ConfigError: the model has no decoder, or the rule does not suit its fusion.
        DataError: the examples hold features of another model, or more samples than allowed, or all, are left out.
    """
    if model.decoder is not None and not model.active_experts:
        return []
    decoder = require_measurable(model, rule)
    examples.require_of(model)
    kept = fitting(model, decoder, examples)
    model.eval()
    names, gates = model.active_experts, _GateStatistics()
    full, count, done = 0.0, 0, 0
    without = dict.fromkeys(names, 0.0)
    display = Display(len(kept), "measure", quiet=quiet, every=batch_size * 10)
    with every_expert(model, "contributions are measured"), display:
        for indices, shown in kept.read(batch_size):
            texts = answer_texts(decoder, kept, indices)
            with first_layers_kept():
                fused = model.fuse(shown.features)
                nats, tokens = answer_loss(decoder, kept, indices, shown.by_sample(fused.tokens), texts)
                full, count = full + nats, count + tokens
                gates.add(model, shown, fused)
                for name in names:
                    with switched_off(model, [name], rule):
                        left = shown.by_sample(model.fuse(shown.features).tokens)
                        without[name] += answer_loss(decoder, kept, indices, left, texts)[0]
            done += len(indices)
            display.update(done)
    require_answers(count, examples)
    found = [Contribution(name, (without[name] - full) / count, *gates.means(name)) for name in names]
    return sorted(found, key=lambda one: -one.loss)


def require_measurable(model: ToveModel, rule: Rule | None) -> Decoder:
    """Refuse a model whose contributions cannot be measured, before its samples are encoded; return its decoder.

    Raises:
        ConfigError: it has no decoder, no expert is on, or the rule does not suit its fusion.
    """
    if model.decoder is None:
        raise ConfigError("contributions are measured by the language loss; the model was built with decoder=None")
    if not model.active_experts:
        raise ConfigError("the model has no expert on, so that there are no contributions; give a run with experts")
    require_rule(model, rule)
    return model.decoder


class _GateStatistics:
    """Sums of the gates, and of the norms of the gated hidden terms, by expert; nothing where there is no gate."""

    def __init__(self) -> None:
        self._norms, self._masses = defaultdict[str, float](float), defaultdict[str, float](float)
        self._tokens = defaultdict[str, int](int)

    @torch.no_grad()
    def add(self, model: ToveModel, shown: Shown, fused: Fused) -> None:
        """Count a batch, given what all of its experts make of it: each image as often as samples see it."""
        if model.fusion is None:
            return
        for name, gate, hidden in model.fusion.terms(shown.features[CLIP], shown.features, fused.gates):
            norms = (gate[..., None] * hidden).norm(dim=-1)
            norm, mass = (shown.by_sample(values[..., None]) for values in (norms, gate))
            self._norms[name] += norm.numel() * norm.mean().item()
            self._masses[name] += mass.numel() * mass.mean().item()
            self._tokens[name] += mass.numel()

    def means(self, name: str) -> tuple[float | None, float | None]:
        """Return the mean norm and the mean gate of an expert."""
        if name not in self._norms:
            return None, None
        return self._norms[name] / self._tokens[name], self._masses[name] / self._tokens[name]
