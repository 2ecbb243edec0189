"""One result: a model trained and scored, its experts switched off one by one, or itself merged into one CLIP."""

from __future__ import annotations

from typing import Any

from tove_core.config import MergeConfig, Rule
from tove_core.contribution import contributions
from tove_core.data.sample import Sample
from tove_core.demo.claims.subjects import NLVR, Subject
from tove_core.demo.claims.variants import Variant
from tove_core.demo.world import training
from tove_core.evaluation.evaluate import accuracy_per_image, evaluate
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.metrics.binary import consistency, true_or_false
from tove_core.merging import merge
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.loop import fit

Result = dict[str, Any]
"""What a JSON file holds of one job."""

RULES: tuple[Rule, ...] = ("zero", "renormalise")


def train(subject: Subject, variant: Variant, seed: int, part: list[Sample], *, quiet: bool) -> ToveModel:
    """Build a variant and train it on some samples of the training split."""
    model = subject.build(variant.config(subject.budget), seed)
    label = f"{subject.name} {variant.name} {seed}"
    fit(model, subject.examples(model, part), training(subject.size), seed=seed, quiet=quiet, label=label)
    return model


def scored(subject: Subject, model: ToveModel, examples: Examples | None = None) -> Result:
    """Return what a model attains on the test split.

    `clusters` holds the accuracy of each image (of each statement in NLVR), in the order of the split: what
    intervals are drawn from.
    """
    examples = examples or subject.examples(model, subject.parts.test)
    scores = evaluate(model, examples)
    found: Result = {
        "accuracy": scores.accuracy,
        "majority": scores.majority,
        "kinds": {kind: accuracy for kind, (accuracy, _) in scores.by_kind.items()},
        "captions": dict(scores.captions),
        "loss": mean_loss(model, examples),
        "parameters": sum(p.numel() for p in model.fusion.parameters()) if model.fusion is not None else 0,
        "clusters": [
            round(value, 4) for value in accuracy_per_image(examples.samples, scores.predictions, subject.cluster)
        ],
    }
    if subject.name == NLVR:
        right = true_or_false(scores.predictions, {one.id: one.targets for one in examples.samples})
        groups = {one.id: subject.cluster(one) for one in examples.samples}
        found["consistency"] = consistency(right, groups).value
    return found


def detached(subject: Subject, hub: ToveModel) -> Result:
    """Return what switching each expert off costs, by both rules, and what was measured beforehand to foresee it."""
    before = contributions(hub, subject.examples(hub, subject.parts.validation))
    questions = subject.examples(hub, subject.questions)
    accuracy = {rule: {name: _without(hub, name, rule, questions) for name in hub.active_experts} for rule in RULES}
    foreseen = {one.expert: {"loss": one.loss, "norm": one.norm, "mass": one.mass} for one in before}
    return {"accuracy": evaluate(hub, questions).accuracy, "without": accuracy, "foreseen": foreseen}


def merged(subject: Subject, hub: ToveModel, clip_only: ToveModel, seed: int, *, quiet: bool) -> Result:
    """Return what the hub attains merged into one CLIP, and what its controls do after as many steps.

    `merged`: distilled from the hub. `no teacher`: the same start and the language loss alone. `CLIP unfrozen`: the
    same from the model that never saw an expert.
    """
    size = subject.size
    settings = MergeConfig(steps=size.merge_steps, batch_size=size.batch, learning_rate=1e-3)
    control = settings.model_copy(update={"control": True})
    found: Result = {}
    for name, start, config in (
        ("merged", hub, settings),
        ("no teacher", hub, control),
        ("CLIP unfrozen", clip_only, control),
    ):
        student = merge(start, subject.examples(start, subject.train), config, seed=seed, quiet=quiet)
        found[name] = scored(subject, student, Examples.cached(student, subject.questions, batch_size=256))
    return found


def _without(hub: ToveModel, name: str, rule: Rule, questions: Examples) -> float | None:
    hub.detach(name, rule)
    try:
        return evaluate(hub, questions).accuracy
    finally:
        hub.attach(name)
