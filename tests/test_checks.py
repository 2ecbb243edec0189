from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tove_core.checkpoint import read_manifest, require_decoder
from tove_core.checks import names_given, path_given, seed_given, whole
from tove_core.config import DataConfig, MergeConfig, RunConfig, TrainingConfig
from tove_core.contribution import contributions
from tove_core.data.sample import Sample
from tove_core.errors import CheckpointError, ConfigError, DataError, ImageError, WeightsError
from tove_core.evaluation.diagnose import diagnose
from tove_core.evaluation.evaluate import evaluate
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.probe import probe
from tove_core.evaluation.run import evaluate_into, evaluate_once
from tove_core.merging import merge
from tove_core.model import ToveModel
from tove_core.training import fit, resume, train
from tove_core.training.examples import Examples
from tove_core.training.processes import own_device
from tove_core.training.run_data import run_data, run_examples, run_samples
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
    assert names_given(iter(["a", "b"]), "x") == ["a", "b"]
    for wrong in ("ab", b"ab", None, 3, ["a", 3], {"a": 1}):
        refused(ConfigError, "x is .*; give a list of names", lambda wrong=wrong: names_given(wrong, "x"))
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


def test_experts_whose_settings_or_order_would_be_lost_are_refused(toy):
    refused(
        ConfigError, "experts is a dict; give a list of names", lambda: toy.build({"toy-wide": {"dtype": "bfloat16"}})
    )
    refused(ConfigError, "experts is a set; give a list of names", lambda: toy.build({"toy-wide", "toy-fine"}))


@pytest.mark.parametrize(("part", "name"), [("clip", "hf:mine/clop"), ("decoder", "mine/clop")])
def test_a_folder_that_reads_like_a_hub_id_may_be_misspelt(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as caught:
        toy.build([], **{part: name})
    assert "folder" not in str(caught.value)
    (tmp_path / "mine" / "clip").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"; if a folder is meant, 'mine' holds none of the name 'clop'$"):
        toy.build([], **{part: name})


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_answers_refuse_batch_sizes_seeds_and_images_that_cannot_be(toy: Any, bound: Any) -> None:
    model, _ = bound
    for size in (None, 2.5, "2", 0):
        refused(
            ConfigError,
            f"batch_size is {size!r}; give a whole number",
            lambda size=size: model.answer(toy.pictures(1), "red?", batch_size=size),
        )
    for seed in ("x", 1.5, 2**70, -1):
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


def test_paths_are_text_or_paths_wherever_a_run_or_a_checkpoint_is_named(
    toy: Any, bound: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, samples = bound[0], [one for one in toy.samples() if one.prompt][:3]
    model.save_pretrained(tmp_path / "kept")
    kept, data = str(tmp_path / "kept"), DataConfig(reader="jsonl", path=toy.data)
    assert read_manifest(kept).config == model.config
    require_decoder(kept)
    refused(CheckpointError, "holds no run", lambda: run_data(kept, 3))
    assert len(run_examples(kept, model, data, samples, quiet=True)) == 3
    options = {"quiet": True, "device": torch.device("cpu"), "cache": False}
    assert len(evaluate_once(kept, samples, **options).said) == 3
    assert len(evaluate_into(str(tmp_path / "said"), kept, data, samples, **options).said) == 3
    assert not capsys.readouterr().out, "who asks for a value prints it"
    for wrong in (None, 3):
        for ask in (
            lambda wrong=wrong: read_manifest(wrong),
            lambda wrong=wrong: require_decoder(wrong),
            lambda wrong=wrong: run_data(wrong, 3),
            lambda wrong=wrong: run_examples(wrong, model, data, samples),
            lambda wrong=wrong: evaluate_once(wrong, samples),
            lambda wrong=wrong: evaluate_into(wrong, kept, data, samples),
            lambda wrong=wrong: evaluate_into(tmp_path / "x", wrong, data, samples),
        ):
            refused(ConfigError, f"is {wrong}; give a path", ask)


def test_a_device_is_named_or_given(toy: Any, tmp_path: Path) -> None:
    data = {"reader": "jsonl", "path": str(toy.data), "limit": 4}
    model = {"experts": [{"name": "toy-wide"}], "clip": {"name": toy.clip}, "decoder": {"name": toy.decoder}}
    given = {"model": model, "data": data, "training": ONE_STEP.model_dump(), "output": tmp_path / "run"}
    config = RunConfig.model_validate(given)
    assert train(config, device=torch.device("cpu"), quiet=True).trained
    refused(CheckpointError, "is finished", lambda: resume(tmp_path / "run", device=torch.device("cpu")))
    assert (own_device(torch.device("cuda:1")), own_device("cpu"), own_device(None)) == ("cuda:1", "cpu", None)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_and_merging_learn_whatever_mode_they_are_called_in(toy: Any, mode: Any) -> None:
    model = toy.build(seed=2)
    examples = toy.examples(model)
    before = model.fusion.second.weight.detach().clone()
    with mode():
        fit(model, examples, TrainingConfig(steps=1, batch_size=2, warmup=0, learning_rate=0.1), quiet=True)
        merged = merge(model, examples, MergeConfig(steps=1, batch_size=2, warmup=0), quiet=True)
    assert not torch.equal(model.fusion.second.weight, before)
    assert merged.trained and not torch.equal(merged.tokens(toy.pictures(1)), model.encode(toy.pictures(1))["clip"])
    refused(ConfigError, "seed is -1", lambda: merge(model, examples, MergeConfig(), seed=-1))


def test_what_would_be_of_no_use_in_training_is_told(bound: Any, tmp_path: Path) -> None:
    tracked = ONE_STEP.model_copy(update={"trackers": ("wandb",)})
    refused(ConfigError, "trackers names wandb, and output is None", lambda: fit(*bound, tracked, quiet=True))
    late = TrainingConfig(steps=2, batch_size=2, warmup=2)
    with pytest.warns(UserWarning, match=r"training\.warmup is 2 and training\.steps is 2") as told:
        fit(*bound, late, quiet=True)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(*bound, late, quiet=True, warn=False)


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
