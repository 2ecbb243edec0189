"""Which kinds of question a run answers better or worse than another, and through which of its experts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tove_core.config import Rule
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError
from tove_core.evaluation.diagnosis import Change, Diagnosis, Effect, Part, Row
from tove_core.evaluation.differing import Pair, choose, gate_maps
from tove_core.evaluation.metrics.paired import compare
from tove_core.evaluation.metrics.score import Score, mean_score
from tove_core.evaluation.predictions import check_predictions
from tove_core.evaluation.probe import Answers, Probe, probe
from tove_core.evaluation.references import Reference, references_of
from tove_core.evaluation.tasks import Task, check_task, clusters_of, kinds_of, task
from tove_core.model import ToveModel
from tove_core.selecting import every_expert
from tove_core.training.examples import MAX_BROKEN
from tove_core.training.refusals import require_targets
from tove_core.training.source import Cache

EXAMPLES = 24
"""Samples shown where nothing is said."""


def diagnose(
    model: ToveModel,
    samples: Iterable[Sample],
    against: Mapping[str, str] | None = None,
    *,
    names: tuple[str, str] = ("run", "other"),
    wanted: str | None = None,
    rule: Rule | None = None,
    examples: int = EXAMPLES,
    batch_size: int = 128,
    max_broken: float = MAX_BROKEN,
    cache: Cache = True,
    quiet: bool = True,
    **generation: Any,
) -> Diagnosis:
    """Compare a model with another on the same samples, kind by kind, and say what each of its experts does there.

    Every expert is switched off in turn. Questions are scored by one metric and captions by CIDEr-D; intervals are 95 %
    ones of a paired bootstrap over images (in NLVR over statements with all their pictures). A model that selects
    experts is looked at with all of them on every image, with a note.

    Args:
        model: whose experts are looked at.
        samples: with targets; those that are too long for the language model or have unreadable images are left out,
            with a warning.
        against: what the other said, by sample id; None: this model with every expert off.
        names: what the two are called.
        wanted: name of a task; None: exact match for questions, and CIDEr-D for captions where there are any.
        rule: how an expert is switched off; None: as the model is configured.
        examples: how many samples to show on which the two differ, half of them better and half worse where possible.
        batch_size: samples answered together.
        max_broken: share of the images that may be unreadable, and of the samples that may be too long.
        cache: where features are read from, if anywhere; see `tove_core.training.source`.
        quiet: show no progress.
        generation: options of `Decoder.generate`.

    Raises:
        ConfigError: nothing is asked about, the task is unknown, or there is no expert to switch off.
        DataError: the other's predictions are not about these samples, or the data are another task's.
    """
    samples = list(samples)  # gone through more than once
    if against is None and not model.active_experts:
        raise ConfigError(
            f"{names[0]} has no expert on, so it cannot be compared with itself without experts; name another run"
        )
    split = by_task(references_of(samples), wanted)
    if against is not None:
        check_predictions(against, [sample.id for sample in samples])
    asked = {one.id for _, references in split for one in references}
    with every_expert(model, "the model is diagnosed"):
        found = probe(
            model, [sample for sample in samples if sample.id in asked], rule=rule, bare=against is None,
            batch_size=batch_size, max_broken=max_broken, cache=cache, quiet=quiet, **generation,
        )  # fmt: skip
        other = found.bare.said if found.bare is not None else (against or {})
        kept = {sample.id for sample in found.samples}
        split = [(chosen, left) for chosen, refs in split if (left := [one for one in refs if one.id in kept])]
        parts, pairs = [], []
        for chosen, references in split:
            part, of_part = compare_part(chosen, references, found, other)
            parts.append(part)
            pairs += of_part
        by_id = {sample.id: sample for sample in found.samples}
        shown = gate_maps(model, [(by_id[pair.id], pair) for pair in choose(pairs, examples)])
    return Diagnosis(
        run=names[0],
        other=names[1],
        bare=against is None,
        samples=len(kept),
        images=len({one.image for _, references in split for one in references}),
        rule=rule or model.config.fusion.rule,
        experts=tuple(model.active_experts),
        view=model.config.view,
        parts=parts,
        examples=shown,
        left_out=len(samples) - len(kept),
    )


def by_task(references: Sequence[Reference], wanted: str | None) -> list[tuple[Task, list[Reference]]]:
    """Return questions and captions apart, each with the task that scores it.

    Args:
        references: of all samples.
        wanted: name of a task; one that scores captions leaves the questions out. None: as `diagnose` says.

    Raises:
        ConfigError: there is no such task, or nothing is asked.
        DataError: the data are another task's, or a sample has no text.
    """
    asking = [one for one in references if one.prompt is not None]
    telling = [one for one in references if one.prompt is None]
    chosen = task(wanted) if wanted is not None else None
    if chosen is not None and not chosen.asks:
        require_targets(telling)
        check_task(chosen, telling or asking)
        return [(chosen, telling)]
    if not asking:
        raise ConfigError(
            f"none of {len(references)} samples asks a question, so there are no kinds of question to compare; give "
            "data with questions, or task 'captions'"
        )
    require_targets(asking + telling)
    split = [(chosen or task("exact-match"), asking), (task("captions"), telling)]
    for one, of_task in split:
        check_task(one, of_task)
    return [(one, of_task) for one, of_task in split if of_task]


def compare_part(
    chosen: Task, references: Sequence[Reference], found: Probe, other: Mapping[str, str]
) -> tuple[Part, list[Pair]]:
    """Compare two runs on samples of one task: all of them, kind by kind, and sample by sample.

    Args:
        chosen: the task; its `by_sample` scores.
        references: what is right.
        found: what the run says in all its states.
        other: what the other says, by sample id.
    """
    targets = {one.id: one.targets for one in references}
    image_of = {one.id: one.image for one in references}
    clusters = clusters_of(chosen, references)
    kinds = kinds_of(chosen, references)

    def scored(said: Mapping[str, str]) -> Score:
        return chosen.by_sample({name: said[name] for name in targets}, targets)

    scores = {name: scored(answers.said) for name, answers in found.without.items()}
    mine, theirs = scored(found.full.said), scored(other)

    def row(kind: str, names: Sequence[str]) -> Row:
        own, rival = _only(mine, names), _only(theirs, names)
        losses = _losses(found.full, names)
        effects = {}
        for expert, answers in found.without.items():
            gates = found.gates.get(expert)
            effects[expert] = Effect(
                _change(_only(scores[expert], names), own, clusters),
                _change(losses, _losses(answers, names), clusters),
                None if gates is None else sum(gates[name] for name in names) / len(names),
            )
        better = sum(own.samples[name] > rival.samples[name] for name in names)
        worse = sum(own.samples[name] < rival.samples[name] for name in names)
        images = len({image_of[name] for name in names})
        change = _change(rival, own, clusters)
        return Row(kind, len(names), images, own.value, rival.value, change, better, worse, losses.value, effects)

    of_kind: dict[str, list[str]] = {}
    for name in targets:
        of_kind.setdefault(kinds[name], []).append(name)
    rows = [row(kind, names) for kind, names in sorted(of_kind.items())]
    pairs = [
        Pair(one.id, one.image, kinds[one.id], mine.name, found.full.said[one.id], other[one.id],
             mine.samples[one.id], theirs.samples[one.id])
        for one in references
    ]  # fmt: skip
    return Part(chosen.name, chosen.asks, mine.name, row("", list(targets)), rows), pairs


def _only(score: Score, names: Sequence[str]) -> Score:
    return mean_score(score.name, {name: score.samples[name] for name in names})


def _losses(answers: Answers, names: Sequence[str]) -> Score:
    """Return the answer loss of some samples, nats per token: the sum over all over the sum of their tokens."""
    nats, tokens = (np.array([of[name] for name in names]) for of in (answers.losses, answers.tokens))
    per_sample = {name: answers.losses[name] / answers.tokens[name] for name in names}
    return Score(
        "loss", float(nats.sum() / tokens.sum()), per_sample, lambda weights: (weights @ nats) / (weights @ tokens)
    )


def _change(before: Score, after: Score, clusters: Mapping[str, str]) -> Change:
    """Return after - before; without an interval where all samples are drawn together."""
    if len({clusters[name] for name in before.samples}) < 2:
        return Change(after.value - before.value, None, None, None)
    found = compare(after, before, clusters)
    return Change(found.difference, found.low, found.high, found.sure)
