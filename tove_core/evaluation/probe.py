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
from tove_core.evaluation.predict import predict_batches, questions_first, require_room, say_batch
from tove_core.fusion.kept import first_layers_kept
from tove_core.language.base import Decoder
from tove_core.model import ToveModel
from tove_core.progress import Display
from tove_core.selecting import every_expert
from tove_core.training.answers import answer_texts
from tove_core.training.examples import MAX_BROKEN, Examples
from tove_core.training.lengths import fitting
from tove_core.training.shown import Shown
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
        model.eval()
        for examples in blocks(model, samples, max_broken, cache, quiet=quiet, block=BLOCK):
            found.samples += examples.samples
            examples.require_of(model)
            require_room(model, examples, generation.get("max_new_tokens"))
            # State after state for each batch: they share its features, its texts and what each expert makes of it.
            for indices, shown in examples.read(batch_size, questions_first(examples)):
                with first_layers_kept():
                    _answer(model, model.decoder, examples, indices, shown, states, rule, found.gates, generation)
                done += len(indices) * len(states)
                display.update(done)
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
    model: ToveModel,
    decoder: Decoder,
    examples: Examples,
    indices: Sequence[int],
    shown: Shown,
    states: Sequence[tuple[list[str], Answers]],
    rule: Rule | None,
    gates: dict[str, dict[str, float]],
    generation: dict[str, Any],
) -> None:
    """Let a model answer a batch in each state, and add what comes of it; gates are those of the state with all on."""
    ids, texts = [examples.samples[i].id for i in indices], answer_texts(decoder, examples, indices)
    for off, answers in states:
        with switched_off(model, off, rule):
            fused = model.fuse(shown.features)
        answers.said |= say_batch(model, examples, indices, shown, fused.tokens, texts, **generation)
        output = decoder(shown.by_sample(fused.tokens), texts)
        answers.losses |= zip(ids, output.loss_per_sample.tolist(), strict=True)
        answers.tokens |= zip(ids, output.tokens_per_sample.tolist(), strict=True)
        if not off and fused.gates is not None and model.config.fusion.kind == "gate" and model.fusion is not None:
            means = shown.by_sample(fused.gates).float().mean(dim=1).cpu()
            for column, expert in enumerate(model.fusion.experts):
                if expert in model.active_experts:
                    gates.setdefault(expert, {}).update(zip(ids, means[:, column].tolist(), strict=True))
