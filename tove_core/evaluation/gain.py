"""What experts that joined a trained model bring: the same questions with them and without, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tove_core.errors import ConfigError
from tove_core.evaluation.evaluate import Scores, accuracy_per_image, evaluate
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.metrics.bootstrap import Interval, bootstrap
from tove_core.model import ToveModel
from tove_core.training.examples import Examples


@dataclass(frozen=True)
class Gain:
    """A model with some experts against itself without them.

    Attributes:
        experts: who is on in one case and off in the other.
        before: scores without them.
        after: scores with them.
        loss_before: nats per answer token without them.
        loss_after: with them.
        interval: mean difference of accuracy per image and its 95 % range (bootstrap over images); None without
            questions about at least two images.
    """

    experts: tuple[str, ...]
    before: Scores
    after: Scores
    loss_before: float
    loss_after: float
    interval: Interval | None

    def __str__(self) -> str:
        """Return a table."""
        lines = [f"{'':<16}{'before':>9}{'after':>9}{'gain':>9}{'n':>8}"]
        lines += [_line(*row) for row in self._rows()]
        if self.interval is not None:
            low, high = self.interval.low, self.interval.high
            lines.append(f"accuracy per image: {self.interval.mean:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}")
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """Return what a JSON file holds of it."""
        rows = {name: {"before": before, "after": after, "n": n} for name, before, after, n in self._rows()}
        interval = None
        if self.interval is not None:
            interval = {"mean": self.interval.mean, "low": self.interval.low, "high": self.interval.high}
        return {"experts": list(self.experts), "scores": rows, "accuracy_per_image": interval}

    def _rows(self) -> list[tuple[str, float, float, int | None]]:
        old, new = self.before, self.after
        rows: list[tuple[str, float, float, int | None]] = []
        rows += [(kind or "-", old.by_kind[kind][0], score, n) for kind, (score, n) in new.by_kind.items()]
        if old.accuracy is not None and new.accuracy is not None:
            rows.append(("all", old.accuracy, new.accuracy, sum(n for _, n in new.by_kind.values())))
        rows += [(name, old.captions[name], value, None) for name, value in new.captions.items()]
        return [*rows, ("loss", self.loss_before, self.loss_after, None)]


def measure_gain(model: ToveModel, experts: Sequence[str], examples: Examples, *, quiet: bool = True) -> Gain:
    """Score a model with some experts on and off, on the same samples.

    Where the experts joined by growth, the model without them is the old model bit for bit, because nothing else
    was trained.

    Raises:
        ConfigError: no expert is named, or one of them is off already.
        UnknownExpertError: the model does not hold one of them.
    """
    known = set(model.fusion.experts) if model.fusion is not None else set()
    off = [name for name in experts if name in known and name not in model.active_experts]
    if off or not experts:
        raise ConfigError(f"the gain of {off or 'no expert'} cannot be measured; name experts that are on")
    after, loss_after = evaluate(model, examples, quiet=quiet), mean_loss(model, examples)
    detached: list[str] = []
    try:
        for name in experts:
            model.detach(name, "zero")
            detached.append(name)
        before, loss_before = evaluate(model, examples, quiet=quiet), mean_loss(model, examples)
    finally:
        for name in detached:
            model.attach(name)
    interval = _interval(examples, before.predictions, after.predictions)
    return Gain(tuple(experts), before, after, loss_before, loss_after, interval)


def _interval(examples: Examples, before: Mapping[str, str], after: Mapping[str, str]) -> Interval | None:
    answered = [sample for sample in examples.samples if sample.id in after]
    old, new = (accuracy_per_image(answered, said) for said in (before, after))
    return bootstrap([b - a for a, b in zip(old, new, strict=True)]) if len(old) > 1 else None


def _line(name: str, before: float, after: float, n: int | None) -> str:
    return f"{name:<16}{before:>9.3f}{after:>9.3f}{after - before:>+9.3f}{n if n is not None else '':>8}"
