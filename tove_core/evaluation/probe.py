"""What a model says, and how well it expects what is right: with its experts on, with each off in turn, with none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tove_core.config import Rule
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError
from tove_core.evaluation.collect import BLOCK, blocks
from tove_core.evaluation.predict import predict_batches
from tove_core.model import ToveModel
from tove_core.progress import Display
from tove_core.selecting import every_expert
from tove_core.training.examples import MAX_BROKEN, Examples
from tove_core.training.lengths import fitting
from tove_core.training.source import Cache


@dataclass
class Answers:
    """What a model in one state says about samples, by their ids.

    Attributes:
        said: what it generates.
        losses: nats of all tokens of the first target.
        tokens: how many tokens those are.
    """

    said: dict[str, str] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)


@dataclass
class Probe:
    """A model's answers in every state that tells its experts apart.

    Attributes:
        samples: those that were answered, in order; samples that are too long or have unreadable images are left out.
        full: with every expert as the model has it.
        without: with one expert off, by its name.
        bare: with every expert off; None: not asked for.
        gates: each expert's mean gate over the tokens of a sample, by expert and sample; empty without a gate.
    """

    samples: list[Sample]
    full: Answers
    without: dict[str, Answers]
    bare: Answers | None
    gates: dict[str, dict[str, float]]


def probe(
    model: ToveModel,
    samples: Sequence[Sample],
    *,
    rule: Rule | None = None,
    bare: bool = False,
    batch_size: int = 128,
    max_broken: float = MAX_BROKEN,
    cache: Cache = True,
    quiet: bool = True,
    **generation: Any,
) -> Probe:
    """Let a model answer samples in all its states; features are computed once and kept for one block at a time.

    A model that selects experts answers with all of them on every image, with a note.

    Args:
        model: as it was trained; its active experts are switched off in turn and on again.
        samples: with targets.
        rule: how an expert is switched off; None: as the model is configured.
        bare: also answer with every expert off.
        batch_size: samples answered together.
        max_broken: share of the images that may be unreadable, and of the samples that may be too long.
        cache: where features are read from, if anywhere; see `tove_core.training.source`.
        quiet: show no progress.
        generation: options of `Decoder.generate`.

    Raises:
        ConfigError: the model has no decoder, or the rule does not suit its fusion.
        DataError: a sample has no text, too many are too long for the language model, or too many images unreadable.
    """
    if model.decoder is None:
        raise ConfigError("the model was built with decoder=None and cannot answer; give one with a decoder")
    require_rule(model, rule)
    samples = fitting(model, model.decoder, Examples(model, samples, max_broken=max_broken)).samples
    order = {sample.id: place for place, sample in enumerate(samples)}
    names = list(model.active_experts)
    found = Probe([], Answers(), {name: Answers() for name in names}, Answers() if bare else None, {})
    states: list[tuple[list[str], Answers]] = [([], found.full)]
    states += [([name], answers) for name, answers in found.without.items()]
    states += [] if found.bare is None else [(names, found.bare)]
    display = Display(len(samples) * len(states), "answer", quiet=quiet, every=BLOCK)
    with every_expert(model, "the model answers"), display:
        done = 0
        for examples in blocks(model, samples, max_broken, cache, quiet=quiet, block=BLOCK):
            found.samples += examples.samples
            for off, answers in states:
                with switched_off(model, off, rule):
                    _answer(model, examples, answers, batch_size, generation)
                done += len(examples)
                display.update(done)
            _add_gates(model, examples, found.gates, batch_size)
    found.samples.sort(key=lambda sample: order[sample.id])  # answered image by image
    return found


def say(
    model: ToveModel,
    samples: Sequence[Sample],
    *,
    batch_size: int = 128,
    max_broken: float = MAX_BROKEN,
    cache: Cache = True,
    quiet: bool = True,
    **generation: Any,
) -> dict[str, str]:
    """Return what a model says about samples, by id; those with unreadable images are left out, with a warning.

    A model that selects experts answers with all of them on every image, with a note, as the one it is compared with.

    Raises:
        ConfigError: the model has no decoder.
        DataError: too many images are unreadable.
    """
    said: dict[str, str] = {}
    display = Display(len(samples), "answer", quiet=quiet, every=BLOCK)
    with every_expert(model, "the other model answers"), display:
        for examples in blocks(model, samples, max_broken, cache, quiet=quiet, block=BLOCK):
            for batch in predict_batches(model, examples, batch_size=batch_size, **generation):
                said |= batch
            display.update(len(said))
    return said


@contextmanager
def switched_off(model: ToveModel, names: Sequence[str], rule: Rule | None) -> Iterator[None]:
    """Keep some experts off inside the block, and switch them on again whatever happens there."""
    done = []
    try:
        for name in names:
            model.detach(name, rule)
            done.append(name)
        yield
    finally:
        for name in done:
            model.attach(name)


def require_rule(model: ToveModel, rule: Rule | None) -> None:
    """Refuse a rule by which the model's experts cannot be switched off, before anything is computed.

    Raises:
        ConfigError: the rule does not suit the fusion.
    """
    with switched_off(model, model.active_experts, rule):
        pass


@torch.no_grad()
def _answer(
    model: ToveModel, examples: Examples, answers: Answers, batch_size: int, generation: dict[str, Any]
) -> None:
    for said in predict_batches(model, examples, batch_size=batch_size, **generation):
        answers.said |= said
    for indices in examples.batches(batch_size):
        shown = examples.shown(indices)
        tokens = shown.by_sample(model.fuse(shown.features).tokens)
        targets = [examples.samples[i].targets[0] for i in indices]
        output = model.decoder(tokens, examples.prompts(indices), targets)  # type: ignore[misc]  # checked by `probe`
        for i, loss, count in zip(
            indices, output.loss_per_sample.tolist(), output.tokens_per_sample.tolist(), strict=True
        ):
            name = examples.samples[i].id
            answers.losses[name], answers.tokens[name] = loss, count


@torch.no_grad()
def _add_gates(model: ToveModel, examples: Examples, gates: dict[str, dict[str, float]], batch_size: int) -> None:
    if model.config.fusion.kind != "gate" or model.fusion is None or not model.active_experts:
        return
    for indices in examples.batches(batch_size):
        shown = examples.shown(indices)
        weights = model.fuse(shown.features).gates
        if weights is None:
            return
        means = shown.by_sample(weights).float().mean(dim=1).cpu()
        for column, expert in enumerate(model.fusion.experts):
            if expert in model.active_experts:
                of_expert = gates.setdefault(expert, {})
                of_expert |= {examples.samples[i].id: means[row, column].item() for row, i in enumerate(indices)}
