"""What is told of a run's settings before it begins."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from tove_core.config import GrowthConfig, RunConfig
from tove_core.errors import ConfigError
from tove_core.training.refusals import warn_of_casts, warn_of_no_room, warn_of_stage


def configured(decoder: dict[str, Any], **training: Any) -> RunConfig:
    model = {"decoder": {"name": "some/model", **decoder}}
    return RunConfig.model_validate({"model": model, "data": {"path": "x.jsonl"}, "training": training})


@pytest.mark.parametrize("train", ["none", "lora"])
def test_a_frozen_language_model_that_is_cast_at_every_step_is_told_of(train: str) -> None:
    with pytest.warns(UserWarning, match=r"cast anew in every part of every step; model\.decoder\.dtype bfloat16"):
        warn_of_casts(configured({"train": train}, precision="bf16"))


@pytest.mark.parametrize(
    ("decoder", "training"),
    [
        ({"train": "none"}, {}),
        ({"train": "none", "dtype": "bfloat16"}, {"precision": "bf16"}),
        ({"train": "all"}, {"precision": "bf16"}),  # its casts are kept for the step
        ({"train": "none", "quantize": "4bit"}, {"precision": "bf16"}),
        ({"train": "none"}, {"precision": "bf16", "shard": "full"}),  # gathered in bfloat16
    ],
)
def test_one_that_is_not_is_not(decoder: dict[str, Any], training: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_casts(configured(decoder, **training))


@pytest.mark.parametrize("stage", ["transfer", "finetune"])
def test_a_stage_beside_the_resolved_configuration_of_another_run_is_told_to_change_nothing(stage: str) -> None:
    first = configured({}).model_dump(mode="json")
    again = RunConfig.model_validate(first | {"training": first["training"] | {"stage": stage}})
    with pytest.warns(UserWarning, match=rf"stage {stage} changes nothing.*training\.warmup 50.*leave the stage out"):
        warn_of_stage(again)
    grown = again.model_copy(update={"growth": GrowthConfig.model_validate({"source": "run", "experts": ["eye"]})})
    with pytest.warns(UserWarning, match=r"changes nothing, because [^)]*\(training\.[^(]*\)") as told:
        warn_of_stage(grown)
    assert "model.fusion" not in str(told[0].message)


@pytest.mark.parametrize("given", [{}, {"stage": "transfer"}, {"stage": "finetune", "warmup": 7, "learning_rate": 1.0}])
def test_a_stage_of_which_something_holds_is_not_told_of(given: dict[str, Any]) -> None:
    own = configured({}, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_stage(own)
        warn_of_stage(RunConfig.model_validate(own.model_dump(mode="json")))


def test_answers_longer_than_the_language_model_are_told_of_before_it_is_trained(toy: Any) -> None:
    limit = toy.build().decoder.limit
    samples = toy.samples()
    with pytest.warns(UserWarning, match=rf"leave \d+ of the {limit} positions of .*can answer nothing; lower it"):
        warn_of_no_room(toy.build(decoder={"max_new_tokens": limit - 1}), samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_no_room(toy.build(), samples)
        warn_of_no_room(toy.build(decoder=None), samples)


def test_a_generation_that_is_too_long_names_how_long_its_answer_may_be(toy: Any) -> None:
    model = toy.build()
    with pytest.raises(ConfigError, match=r"positions, 5000 of them new tokens, exceeds .*or lower max_new_tokens$"):
        model.answer(toy.pictures(1), "how many?", max_new_tokens=5000)
