"""Examples are used with the model whose features they hold, and with no other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tove_core.config import MergeConfig, TrainingConfig
from tove_core.contribution import contributions
from tove_core.data.features import FeatureTable
from tove_core.errors import DataError
from tove_core.evaluation.evaluate import evaluate
from tove_core.evaluation.loss import mean_loss
from tove_core.merging import merge
from tove_core.training import fit
from tove_core.training.binding import described
from tove_core.training.cached import build_cache, cache_builder
from tove_core.training.examples import Examples
from tove_core.training.source import make_examples

FEW = TrainingConfig(steps=2, batch_size=6, warmup=1)
USES: dict[str, Callable[[Any, Examples], object]] = {
    "fit": lambda model, examples: fit(model, examples, FEW, quiet=True),
    "mean_loss": mean_loss,
    "evaluate": evaluate,
    "contributions": contributions,
    "merge": lambda model, examples: merge(model, examples, MergeConfig(steps=1, batch_size=4, warmup=0), quiet=True),
}


def calibrated(toy: Any, *given: Any, **options: Any) -> Any:
    model = toy.build(*given, **options)
    model.calibrate(toy.pictures(12))
    model.trained = True
    return model


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("live", [True, False])
def test_features_of_another_model_are_refused(toy: Any, use: str, live: bool) -> None:
    model, other = calibrated(toy), calibrated(toy, clip={"name": toy.clip, "layer": -1})
    examples = Examples(model, toy.samples()) if live else Examples.cached(model, toy.samples())
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(DataError, match=r"features of 'clip' that are not this model's: block is \d there and \d here"):
        USES[use](other, examples)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_other_weights_are_other_features(toy: Any) -> None:
    model, other = calibrated(toy, seed=1), calibrated(toy, seed=2)
    examples = Examples.cached(model, toy.samples())
    with pytest.raises(DataError, match="'toy-fine' that are not this model's: weights is "):
        mean_loss(other, examples)
    with pytest.raises(DataError, match="'toy-fine' that are not this model's: weights is "):
        Examples(other, toy.samples(), examples.table)
    same = copy.deepcopy(model)
    assert mean_loss(same, examples) == mean_loss(model, examples) == mean_loss(same, examples)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_table_from_before_the_model_was_calibrated_is_refused(toy: Any, tmp_path: Any, where: str) -> None:
    model = toy.build()
    build_cache(model, cache_builder(model, toy.samples(), tmp_path))
    cache = True if where == "memory" else tmp_path
    stale = make_examples(model, toy.samples(), cache=cache, quiet=True)
    live = make_examples(model, toy.samples(), cache=False, quiet=True)
    model.calibrate(toy.pictures(12))
    with pytest.raises(
        DataError, match=r"'toy-fine' .*fixed statistics of output 'depth' are .* after it is calibrated"
    ):
        fit(model, stale, FEW, quiet=True)
    fit(model, live, FEW, quiet=True)  # computed as they are asked for
    anew = Examples.cached(model, toy.samples())
    assert mean_loss(model, anew) == pytest.approx(mean_loss(model, live), rel=1e-3)


def test_experts_may_be_switched_and_must_have_been_there(toy: Any) -> None:
    model = calibrated(toy)
    whole = Examples.cached(model, toy.samples())
    model.detach("toy-wide")
    fewer = Examples.cached(model, toy.samples())
    assert mean_loss(model, whole) == pytest.approx(mean_loss(model, fewer), rel=1e-4)
    model.attach("toy-wide")
    mean_loss(model, whole)
    with pytest.raises(DataError, match="hold no features of 'toy-wide', which is on; bind the samples anew"):
        mean_loss(model, fewer)
    small = calibrated(toy, ["toy-fine"])  # the features of a hub serve a model of some of its experts
    mean_loss(small, Examples(small, toy.samples(), whole.table))


def test_an_expert_that_joined_needs_features_of_its_own(toy: Any) -> None:
    model = calibrated(toy, ["toy-wide"])
    before = Examples.cached(model, toy.samples())
    model.add_expert("toy-fine", images=toy.pictures(5))
    with pytest.raises(DataError, match="hold no features of 'toy-fine'"):
        fit(model, before, FEW, quiet=True, only=["toy-fine"])
    fit(model, Examples.cached(model, toy.samples()), FEW, quiet=True, only=["toy-fine"])
    student = merge(
        model, Examples.cached(model, toy.samples()), MergeConfig(steps=1, batch_size=4, warmup=0), quiet=True
    )
    mean_loss(student, Examples.cached(student, toy.samples()))


def test_a_model_that_is_converted_keeps_its_features(toy: Any) -> None:
    model = calibrated(toy)
    examples = Examples.cached(model, toy.samples())
    wanted = mean_loss(model, examples)
    for part in (model.tower, model.experts):
        part.to(torch.float64)
    assert mean_loss(model, examples) == wanted


def test_options_that_json_cannot_say_are_compared_all_the_same(toy: Any) -> None:
    model = calibrated(toy)
    expert = model.experts["toy-fine"]
    expert.spec = expert.spec.model_copy(update={"options": {"far": float("inf"), "kind": torch.float16}})
    examples = Examples.cached(model, toy.samples())
    mean_loss(model, examples)
    expert.spec = expert.spec.model_copy(update={"options": {"far": float("inf"), "kind": torch.float32}})
    with pytest.raises(DataError, match=r"'toy-fine' .*options is .*float16.* there and .*float32.* here"):
        mean_loss(model, examples)


def test_a_table_that_does_not_say_what_it_is_of_is_taken_at_its_word(toy: Any) -> None:
    model = calibrated(toy)
    kept = Examples.cached(model, toy.samples()).table
    assert isinstance(kept, FeatureTable) and described(kept).keys() == {"clip", *toy.experts}  # type: ignore[union-attr]
    own = FeatureTable(kept.features, {"who": "me"})
    assert described(own) is None and mean_loss(model, Examples(model, toy.samples(), own)) > 0
