"""Score a model on a data set: answers by exact match, captions by the COCO metrics, guessing beside both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.evaluation.metrics.bleu import bleu
from tove_core.evaluation.metrics.cider import cider
from tove_core.evaluation.metrics.rouge import rouge
from tove_core.evaluation.metrics.vqa import exact_match
from tove_core.evaluation.predict import predict
from tove_core.model import ToveModel
from tove_core.training.examples import Examples


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one data set.

    Attributes:
        accuracy: mean exact match over all questions, None without questions.
        by_kind: accuracy and number of questions per kind.
        majority_by_kind: accuracy of always giving the kind's most frequent answer of this data set.
        captions: caption metrics by name, empty without captions.
        predictions: what the model said, by sample id.
    """

    accuracy: float | None
    by_kind: Mapping[str, tuple[float, int]]
    majority_by_kind: Mapping[str, float]
    captions: Mapping[str, float]
    predictions: Mapping[str, str] = field(repr=False)

    @property
    def majority(self) -> float | None:
        """Accuracy of the most frequent answer to each kind of question, over all questions."""
        counts = {kind: count for kind, (_, count) in self.by_kind.items()}
        if not counts:
            return None
        return sum(self.majority_by_kind[kind] * count for kind, count in counts.items()) / sum(counts.values())

    def __str__(self) -> str:
        """Return a table."""
        lines = []
        if self.accuracy is not None:
            total = sum(count for _, count in self.by_kind.values())
            lines += [f"{'kind':<16}{'accuracy':>9}{'n':>8}"]
            lines += [f"{kind or '-':<16}{score:>9.3f}{count:>8}" for kind, (score, count) in self.by_kind.items()]
            lines += [f"{'all':<16}{self.accuracy:>9.3f}{total:>8}", f"{'majority answer':<16}{self.majority:>9.3f}"]
        lines += [f"{name:<16}{score:>9.3f}" for name, score in self.captions.items()]
        return "\n".join(lines)


def evaluate(
    model: ToveModel,
    examples: Examples,
    *,
    batch_size: int = 128,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    quiet: bool = True,
) -> Scores:
    """Let a model answer and score what it says; samples whose image turns out unreadable are left out."""
    said = predict(
        model, examples, batch_size=batch_size, max_new_tokens=max_new_tokens, num_beams=num_beams, quiet=quiet
    )
    return score([sample for sample in examples.samples if sample.id in said], said)


def score(samples: Sequence[Sample], said: Mapping[str, str]) -> Scores:
    """Score predictions against the samples' targets.

    Raises:
        DataError: predictions are missing, or belong to no sample.
    """
    questions = {sample.id: sample for sample in samples if sample.prompt is not None}
    captions = {sample.id: sample.targets for sample in samples if sample.prompt is None}
    if strays := sorted(said.keys() - questions.keys() - captions.keys()):
        raise DataError(
            f"{len(strays)} predictions belong to no sample (first: {strays[0]!r}); score them with their own data set"
        )
    accuracy, by_kind, majority = None, {}, {}
    if questions:
        result = exact_match(_of(said, questions), {key: sample.targets for key, sample in questions.items()})
        accuracy, by_kind = result.value, _by_kind(questions, result.samples)
        majority = majority_answers(list(questions.values()))
    scores = {}
    if captions:
        texts = _of(said, captions)
        found = [cider(texts, captions), rouge(texts, captions), bleu(texts, captions)[-1]]
        scores = {one.name: one.value for one in found}
    return Scores(accuracy, by_kind, majority, scores, said)


def accuracy_per_image(
    samples: Sequence[Sample], said: Mapping[str, str], cluster: Callable[[Sample], str] = lambda one: one.image_key
) -> list[float]:
    """Return the mean exact match of each image's questions, in the order of first use; captions do not count.

    Questions about one image are not independent of each other, so intervals are drawn from these.

    Args:
        said: by sample id.
        cluster: what samples that belong together share, where that is more than the image.
    """
    questions = {sample.id: sample for sample in samples if sample.prompt is not None}
    if not questions:
        return []
    right = exact_match(_of(said, questions), {key: one.targets for key, one in questions.items()}).samples
    groups: dict[str, list[float]] = {}
    for key, sample in questions.items():
        groups.setdefault(cluster(sample), []).append(right[key])
    return [sum(values) / len(values) for values in groups.values()]


def majority_answers(samples: Sequence[Sample]) -> dict[str, float]:
    """Return, per kind, the accuracy of giving its most frequent answer whatever the image, by exact match."""
    answers: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for sample in samples:
        # Every right answer of a sample counts, once and as exact match compares it.
        answers.setdefault(sample.kind, Counter()).update({text.strip().lower() for text in sample.targets})
        totals[sample.kind] += 1
    return {kind: max(counter.values()) / totals[kind] for kind, counter in answers.items()}


def _of(said: Mapping[str, str], wanted: Mapping[str, object]) -> dict[str, str]:
    return {key: text for key, text in said.items() if key in wanted}


def _by_kind(questions: Mapping[str, Sample], correct: Mapping[str, float]) -> dict[str, tuple[float, int]]:
    groups: dict[str, list[float]] = {}
    for key, sample in questions.items():
        groups.setdefault(sample.kind, []).append(correct[key])
    return {kind: (sum(values) / len(values), len(values)) for kind, values in sorted(groups.items())}
