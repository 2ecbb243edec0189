"""The tasks that predictions are scored for, by name: which metrics, and what a data set must hold for them."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Protocol, TypeVar

from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.metrics.binary import consistency, pope, true_or_false, truth_of
from tove_core.evaluation.metrics.captions import score_captions
from tove_core.evaluation.metrics.cider import cider
from tove_core.evaluation.metrics.java import java_scores
from tove_core.evaluation.metrics.score import Candidates, References, Score, first_ids
from tove_core.evaluation.metrics.vqa import check_annotators, exact_match, exact_worth, vqa_accuracy, vqa_worth
from tove_core.evaluation.references import Reference


class Asked(Protocol):
    """A sample or a reference: what is asked of which."""

    @property
    def id(self) -> str:
        """Unique within its data set."""
        ...

    @property
    def prompt(self) -> str | None:
        """The question; None for a caption."""
        ...


S = TypeVar("S", bound=Asked)


@dataclass(frozen=True)
class Measured:
    """What a task's metrics gave.

    Attributes:
        scores: in the order they are printed.
        absent: metrics that could not be computed, with the reason.
        baselines: what needs no model, to be printed beside the scores.
    """

    scores: Sequence[Score]
    absent: Mapping[str, str] = field(default_factory=dict)
    baselines: Sequence[Score] = ()


@dataclass(frozen=True)
class Task:
    """One way to score predictions.

    Attributes:
        name: as in `--task`.
        summary: one line for people.
        asks: whether its samples have a question; captions have none.
        measure: from what was said and what is right to scores.
        by_sample: the one metric that samples are told apart by: each has a value of its own, the score is their mean.
        fit: raises DataError where targets are not such as the task has; None: any texts will do.
    """

    name: str
    summary: str
    asks: bool
    measure: Callable[[Candidates, Sequence[Reference]], Measured]
    by_sample: Callable[[Candidates, References], Score]
    fit: Callable[[References], object] | None = None


def task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        ConfigError: there is none; the nearest name is offered.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(TASKS)}"
    raise ConfigError(f"there is no task {name!r}; {advice}")


def tasks_for(samples: Sequence[Asked]) -> list[Task]:
    """Return the plain tasks of a data set: captions, or exact match where it asks questions, or both."""
    found = {"captions" if one.prompt is None else "exact-match" for one in samples}
    return [one for one in TASKS.values() if one.name in found]


def task_for(samples: Sequence[Asked]) -> Task:
    """Return the one plain task of a data set.

    Raises:
        ConfigError: it has two.
    """
    found = tasks_for(samples)
    if len(found) == 1:
        return found[0]
    asking = sum(one.prompt is not None for one in samples)
    raise ConfigError(
        f"{asking} of {len(samples)} samples ask a question and the others do not, so no one task fits; "
        "name one, as --task captions or --task exact-match: it takes the samples it scores and leaves the others"
    )


def check_task(wanted: Task, references: Sequence[Reference]) -> None:
    """Refuse a data set that is another task's.

    Raises:
        DataError: samples ask questions where captions are wanted, or the reverse, or targets are not the task's.
    """
    _refuse_odd(wanted, references)
    if wanted.fit is not None:
        wanted.fit(_targets(references))


def scored_by(wanted: Task, samples: Sequence[S]) -> list[S]:
    """Return the samples of a data set that a task scores: those that ask a question, or those that do not.

    Raises:
        DataError: there are none.
    """
    found = [one for one in samples if (one.prompt is not None) == wanted.asks]
    if not found:
        _refuse_odd(wanted, samples)
    return found


def _refuse_odd(wanted: Task, samples: Sequence[Asked]) -> None:
    odd = [one.id for one in samples if (one.prompt is not None) != wanted.asks]
    if odd:
        what = "no question" if wanted.asks else "a question"
        raise DataError(
            f"{len(odd)} of {len(samples)} samples have {what} ({first_ids(odd)}), but task {wanted.name!r} scores "
            f"{'answers' if wanted.asks else 'captions'}; choose the data set's own task"
        )


def _targets(references: Sequence[Reference]) -> dict[str, tuple[str, ...]]:
    return {one.id: one.targets for one in references}


def _captions(said: Candidates, references: Sequence[Reference]) -> Measured:
    if len(references) > 1 and len({one.image for one in references}) == 1:
        warnings.warn(
            f"CIDEr-D of {len(references)} samples of one image says little, because how rare a word is comes from "
            "other images; score more images",
            stacklevel=2,
        )
    return Measured(list(score_captions(said, _targets(references)).values()))


def _coco(said: Candidates, references: Sequence[Reference]) -> Measured:
    scores, absent = java_scores(said, _targets(references))
    return Measured([*_captions(said, references).scores, *scores], absent)


def _with_majority(
    metric: Callable[[Candidates, Mapping[str, tuple[str, ...]]], Score],
    said: Candidates,
    of: Sequence[Reference],
    worth: Callable[[Sequence[str]], Mapping[str, float]] = exact_worth,
) -> Measured:
    """Score answers, and beside them always giving the answer to each kind that scores best, whatever the image."""
    answers: dict[str, dict[str, float]] = {}
    for one in of:
        of_kind = answers.setdefault(one.kind, {})
        for answer, score in worth(one.targets).items():
            of_kind[answer] = of_kind.get(answer, 0.0) + score
    guess = {kind: max(scores.items(), key=itemgetter(1))[0] for kind, scores in answers.items()}
    majority = metric({one.id: guess[one.kind] for one in of}, _targets(of))
    return Measured([metric(said, _targets(of))], baselines=[replace(majority, name="majority answer")])


def _vqa(said: Candidates, references: Sequence[Reference]) -> Measured:
    return _with_majority(vqa_accuracy, said, references, vqa_worth)


def _exact(said: Candidates, references: Sequence[Reference]) -> Measured:
    return _with_majority(exact_match, said, references)


def _pope(said: Candidates, references: Sequence[Reference]) -> Measured:
    return Measured(pope(said, _targets(references)))


def _pope_accuracy(said: Candidates, references: References) -> Score:
    return next(score for score in pope(said, references) if score.name == "accuracy")


def _vsr(said: Candidates, references: Sequence[Reference]) -> Measured:
    return _with_majority(true_or_false, said, references)


def _nlvr(said: Candidates, references: Sequence[Reference]) -> Measured:
    found = _with_majority(true_or_false, said, references)
    groups = _statements(references)
    if not groups:
        absent = {"consistency": "samples have no meta key 'identifier' to group permutations by"}
        return Measured(found.scores, absent, found.baselines)
    return Measured([*found.scores, consistency(found.scores[0], groups)], baselines=found.baselines)


def _statements(references: Sequence[Reference]) -> dict[str, str]:
    return {one.id: str(one.meta["identifier"]) for one in references if "identifier" in one.meta}


TASKS = {
    one.name: one
    for one in (
        Task("captions", "BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D, as COCO computes them", False, _captions, cider),
        Task("coco-captions", "the same, and METEOR and SPICE where Java and their programs are", False, _coco, cider),
        Task(
            "exact-match", "share of answers equal to a target but for case and space around", True, _exact, exact_match
        ),
        Task("gqa", "exact match, which is GQA's accuracy", True, _exact, exact_match),
        Task("vqa", "VQA accuracy over the annotators' answers", True, _vqa, vqa_accuracy, check_annotators),
        Task(
            "pope",
            "accuracy, precision, recall, F1 and yes-ratio of yes or no, per split",
            True,
            _pope,
            _pope_accuracy,
            truth_of,
        ),
        Task("vsr", "accuracy of true or false, per relation", True, _vsr, true_or_false, truth_of),
        Task(
            "nlvr",
            "accuracy of true or false, and consistency over the permutations of an example",
            True,
            _nlvr,
            true_or_false,
            truth_of,
        ),
    )
}
"""Every task, by name."""


def clusters_of(wanted: Task, references: Sequence[Reference]) -> dict[str, str]:
    """Return what intervals draw together, by id: questions about one image, and in NLVR a statement's pictures."""
    together = {one.id: one.image for one in references}
    return together | _statements(references) if wanted.name == "nlvr" else together


def kinds_of(wanted: Task, references: Sequence[Reference]) -> dict[str, str]:
    """Return the group of each sample, by id: its kind; for VSR without kinds its relation."""
    if wanted.name == "vsr" and not any(one.kind for one in references):
        return {one.id: str(one.meta.get("relation", "")) for one in references}
    return {one.id: one.kind for one in references}
