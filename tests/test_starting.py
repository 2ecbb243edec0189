from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from tove_core.checkpoint import start_from
from tove_core.errors import CheckpointError
from tove_core.starting import other_meanings

SIGMOID = {"kind": "gate", "gate": {"hidden": 6, "activation": "sigmoid"}}


@pytest.fixture(scope="module")
def begun(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = toy.build(view="crop", fusion={"kind": "gate", "gate": {"hidden": 6}}, decoder={"train": "lora"})
    model.calibrate(toy.pictures())
    return model.save_pretrained(tmp_path_factory.mktemp("runs") / "begun")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"view": "squash"}, r"model\.view \(crop there, squash here\), so"),
        ({"fusion": SIGMOID}, r"model\.fusion\.gate\.activation \(softmax there, sigmoid here\), so"),
        ({"decoder": {"train": "lora", "lora": {"alpha": 4}}}, r"decoder\.lora\.alpha \(16\.0 there, 4\.0 here\), so"),
    ],
)
def test_a_start_with_settings_that_make_something_else_of_the_tensors_is_told(
    toy: Any, begun: Path, changes: dict[str, Any], told: str
) -> None:
    given = {"view": "crop", "fusion": {"kind": "gate", "gate": {"hidden": 6}}, "decoder": {"train": "lora"}} | changes
    with pytest.warns(
        UserWarning, match=f"was trained with other settings than this run's: .*{told}.*set them as there"
    ):
        start_from(toy.build(**given), begun)


def test_a_clip_that_gives_tokens_of_another_layer_is_told(toy: Any) -> None:
    config = toy.build().config
    deeper = config.model_copy(update={"clip": config.clip.model_copy(update={"layer": -1})})
    assert other_meanings(config, deeper) == ["model.clip.layer (-2 there, -1 here)"]


def test_a_start_that_only_trains_otherwise_is_not_told_of(toy: Any, tmp_path: Path) -> None:
    model = toy.build()
    model.calibrate(toy.pictures())
    place = model.save_pretrained(tmp_path / "first")
    other = {
        "kind": "gate",
        "residual": 0.1,
        "gate": {"hidden": 6, "noise": 0.0, "expert_dropout": 0.5, "balance": 0.0},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(toy.build(fusion=other, decoder={"train": "all", "max_new_tokens": 3}), place)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"decoder": {}},
            r"has beside them \d+, first \S+; set model\.decoder\.train \(lora there, none here\) as there",
        ),
        (
            {"decoder": {"train": "lora", "lora": {"rank": 2, "targets": ["q_proj", "k_proj"]}}},
            r"rank \(8 there, 2 here\), model\.decoder\.lora\.targets \(all-linear there, q_proj, k_proj here\) as",
        ),
        ({"fusion": "uniform"}, r"set model\.fusion\.kind \(gate there, uniform here\) as there"),
        (
            {"experts": [{"name": "toy-fine", "gate": "own"}, "toy-wide", "toy-whole"]},
            r"the gate of 'toy-fine' is 'shared' there and 'own' here; set its gate in model.experts",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_the_setting_that_differs(
    toy: Any, begun: Path, changes: dict[str, Any], told: str
) -> None:
    gate = {"kind": "gate", "gate": {"hidden": 6}}
    model = toy.build(**{"view": "crop", "fusion": gate, "decoder": {"train": "lora"}} | changes)
    with pytest.raises(CheckpointError, match=told):
        start_from(model, begun)
