from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tove_core.checks import path_given, seed_given, whole
from tove_core.config import MergeConfig, TrainingConfig
from tove_core.contribution import contributions
from tove_core.data.sample import Sample
from tove_core.errors import CheckpointError, ConfigError, DataError, ImageError
from tove_core.evaluation.diagnose import diagnose
from tove_core.evaluation.evaluate import evaluate
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.probe import probe
from tove_core.merging import merge
from tove_core.model import ToveModel
from tove_core.training import fit, resume
from tove_core.training.examples import Examples
from tove_core.training.run import run_samples
from tove_core.training.source import make_examples

ONE_STEP = TrainingConfig(steps=1, batch_size=2, warmup=0)


def refused(kind: type[Exception], told: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=told) as caught:
        call()
    assert "\n" not in str(caught.value), "one sentence"


@pytest.fixture(scope="module")
def bound(toy: Any) -> Any:
    """A model and its examples."""
    model = toy.build()
    return model, toy.examples(model)


def test_whole_numbers_paths_and_seeds() -> None:
    assert (whole(np.int64(3), "n", least=3), seed_given(2**32 - 1), path_given("a/b", "x")) == (
        3,
        2**32 - 1,
        Path("a/b"),
    )
    for wrong in (2, 2.5, True, "3", None, float("nan")):
        refused(
            ConfigError,
            f"n is {wrong!r}; give a whole number, at least 3",
            lambda wrong=wrong: whole(wrong, "n", least=3),
        )
    for wrong in (None, 3, b"x"):
        refused(ConfigError, f"x is {wrong!r}; give a path", lambda wrong=wrong: path_given(wrong, "x"))


@pytest.mark.parametrize("seed", ["a", None, 2**70, 1.5, -1, True])
def test_a_model_is_not_built_from_what_is_no_seed(toy: Any, seed: Any) -> None:
    refused(ConfigError, f"seed is {seed!r}; give a whole number, from 0 to", lambda: toy.build([], seed=seed))


def test_what_cannot_be_built_saved_or_loaded_is_refused(toy: Any, bound: Any) -> None:
    for wrong in (None, 3):
        refused(ConfigError, f"experts is {wrong}; give a list of names", lambda wrong=wrong: toy.build(wrong))
        refused(ConfigError, f"weights is {wrong}; give a path", lambda wrong=wrong: toy.build([], weights=wrong))
        refused(ConfigError, f"checkpoint is {wrong}; give", lambda wrong=wrong: ToveModel.from_pretrained(wrong))
        refused(ConfigError, f"checkpoint is {wrong}; give", lambda wrong=wrong: bound[0].save_pretrained(wrong))


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_answers_refuse_batch_sizes_seeds_and_images_that_cannot_be(toy: Any, bound: Any) -> None:
    model, _ = bound
    for size in (None, 2.5, "2", 0):
        refused(
            ConfigError,
            f"batch_size is {size!r}; give a whole number",
            lambda size=size: model.answer(toy.pictures(1), "red?", batch_size=size),
        )
    for seed in ("x", 1.5, 2**70):
        draw = {"seed": seed, "do_sample": True}
        refused(ConfigError, f"seed is {seed!r}", lambda draw=draw: model.answer(toy.pictures(1), "red?", **draw))
    refused(ImageError, r"'a.*b' is no path \(embedded null", lambda: model.tokens("a\0b"))


def test_samples_are_not_taken_none_at_a_time(bound: Any) -> None:
    for measure in (evaluate, contributions):
        refused(ConfigError, "batch_size is 0; give", lambda measure=measure: measure(*bound, batch_size=0))


def test_paths_may_be_text_in_training(toy: Any, bound: Any, tmp_path: Path) -> None:
    fit(*bound, ONE_STEP, output=str(tmp_path), quiet=True)
    assert (tmp_path / "metrics.jsonl").is_file()
    refused(ConfigError, "seed is 'x'", lambda: fit(*bound, ONE_STEP, seed="x", quiet=True))  # type: ignore[arg-type]
    refused(CheckpointError, "holds no run to resume", lambda: resume(str(tmp_path)))
    refused(CheckpointError, "holds no run", lambda: run_samples(str(tmp_path), 3))
    missing = str(tmp_path / "none")
    refused(DataError, "none", lambda: make_examples(bound[0], toy.samples(), cache=missing, quiet=True))
    refused(
        ConfigError,
        "cache is None; give a path",
        lambda: make_examples(bound[0], toy.samples(), cache=None, quiet=True),  # type: ignore[arg-type]
    )


def no_features(*_: Any) -> Any:
    raise AssertionError("images were seen")


def test_samples_without_a_target_are_neither_trained_on_nor_measured(
    toy: Any, bound: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = bound
    samples = [*toy.samples()[:3], Sample("bare", toy.pictures(1)[0])]
    examples = Examples(model, samples)
    monkeypatch.setattr(ToveModel, "encode", no_features)
    for use in (
        lambda: fit(model, examples, ONE_STEP, quiet=True),
        lambda: merge(model, examples, MergeConfig(steps=1, batch_size=2, warmup=0), quiet=True),
        lambda: contributions(model, examples),
        lambda: mean_loss(model, examples),
        lambda: diagnose(model, samples),
        lambda: probe(model, samples),
    ):
        refused(DataError, "sample 'bare' has no target", use)


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_a_diagnosis_takes_samples_that_can_be_gone_through_once(toy: Any, bound: Any) -> None:
    model, samples = bound[0], toy.samples()[:4]
    once, again = (diagnose(model, given, examples=0) for given in (iter(samples), samples))
    assert once.samples == again.samples == 4 and once.left_out == 0
