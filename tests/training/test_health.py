from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.config import GateConfig, RunConfig, TrainingConfig
from tove_core.errors import CheckpointError
from tove_core.training import fit, train
from tove_core.training.health import dead_experts, diagnosis, entropy


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"steps": 4, "batch_size": 5, "warmup": 1, "log_every": 1} | changes)


def test_entropy_is_one_where_gates_are_equal_and_nothing_where_one_takes_all() -> None:
    even, one = torch.full((2, 7, 3), 1.0), torch.zeros(2, 7, 3)
    one[..., 1] = 3
    assert entropy(even).item() == pytest.approx(14) and entropy(one).item() == 0
    mixed = torch.tensor([[[0.75, 2.25]]], dtype=torch.float64)
    wanted = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert entropy(mixed).item() == pytest.approx(wanted)
    assert entropy(even[..., :1]).item() == 0 and torch.isfinite(entropy(even * 0))


def test_a_collapsed_gate_and_dead_experts_are_told_with_what_to_change() -> None:
    gate = GateConfig(balance=0.02, noise=0.5)
    assert diagnosis({"a": 0.4, "b": 0.35, "c": 0.25}, 0.9, gate) is None
    assert diagnosis({"a": 1.0}, None, gate) is None
    gone = diagnosis({"a": 0.001, "b": 0.6, "c": 0.399}, 0.6, gate)
    assert (
        gone is not None and gone.startswith("the gate hardly uses 'a' any more; set") and dead_experts({"a": 1}) == []
    )
    alone = diagnosis({"a": 0.001, "b": 0.998, "c": 0.001}, 0.01, gate)
    assert alone is not None and "collapsed: 'b' holds 100%" in alone
    assert "gate.balance to 0.2 (it is 0.02)" in alone and "gate.noise to 1 (it is 0.5)" in alone
    hard = diagnosis({"a": 0.5, "b": 0.5}, 0.02, gate)
    assert hard is not None and "each token to one expert alone" in hard


@pytest.mark.parametrize("given", [{}, {"activation": "sigmoid"}, {"null": True}])
def test_dropped_experts_and_noise_do_not_count_in_what_is_said_of_an_equal_gate(
    toy: Any, tmp_path: Path, capsys: Any, given: dict[str, Any]
) -> None:
    gate = {"hidden": 6, "balance_warmup": 0, "noise": 0.9, "expert_dropout": 0.7} | given
    model = toy.build(["toy-wide", {"name": "toy-whole", "gate": "own"}], fusion={"kind": "gate", "gate": gate})
    fit(model, toy.examples(model), config(learning_rate=1e-12), output=tmp_path, quiet=True)
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()):
        assert line["gate_entropy"] == pytest.approx(1, abs=1e-4) and line["dead"] == [] and line["warning"] is None
        assert line["gate"] == pytest.approx({"toy-wide": 0.5, "toy-whole": 0.5}, abs=1e-4)
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_an_expert_that_is_off_is_neither_dead_nor_balanced(toy: Any, tmp_path: Path, rule: Any) -> None:
    gate = {"hidden": 6, "balance": 1.0, "balance_warmup": 0, "noise": 0.0, "expert_dropout": 0.0}
    model = toy.build(fusion={"kind": "gate", "gate": gate})
    model.detach("toy-wide", rule)
    fit(model, toy.examples(model), config(learning_rate=1e-12), output=tmp_path, quiet=True)
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()):
        assert line["gate"] == pytest.approx({"toy-fine": 0.5, "toy-whole": 0.5}, abs=1e-4) and line["dead"] == []
        assert line["gate_entropy"] == pytest.approx(1, abs=1e-4) and line["balance"] == pytest.approx(0, abs=1e-6)


def test_balancing_is_no_cure_for_gates_that_do_not_compete() -> None:
    told = diagnosis({"a": 0.001, "b": 0.998, "c": 0.001}, 0.01, GateConfig(activation="sigmoid", noise=0.5))
    assert told is not None and "balance" not in told and "set model.fusion.gate.noise to 1 (it is 0.5)" in told


def test_sigmoid_gates_are_not_balanced(toy: Any, tmp_path: Path) -> None:
    gate = {"hidden": 6, "balance_warmup": 0, "noise": 0.7}
    found = {}
    for activation in ("softmax", "sigmoid"):
        (tmp_path / activation).mkdir()
        model = toy.build(fusion={"kind": "gate", "gate": gate | {"activation": activation}})
        fit(model, toy.examples(model), config(), output=tmp_path / activation, quiet=True)
        lines = (tmp_path / activation / "metrics.jsonl").read_text().splitlines()
        found[activation] = [json.loads(line)["balance"] for line in lines]
    assert found["sigmoid"] == [0] * 4 and all(value > 0 for value in found["softmax"])


def test_a_gate_that_collapses_in_training_is_called_out_once(toy: Any, tmp_path: Path, capsys: Any) -> None:
    gate = {"hidden": 6, "balance": 0.0, "balance_warmup": 0, "noise": 0.0, "expert_dropout": 0.0}
    model = toy.build(fusion={"kind": "gate", "gate": gate})
    with torch.no_grad():
        model.fusion.gate.rows["toy-wide"].bias.fill_(30)
    fit(model, toy.examples(model), config(), output=tmp_path)
    said = capsys.readouterr().err
    assert said.count("note: step 1: the gate has collapsed: 'toy-wide' holds 100% of its mass") == 1
    assert "note: step 2" not in said
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["dead"] == ["toy-fine", "toy-whole"] and line["gate_entropy"] == 0


def test_the_warning_comes_once_also_when_quiet_and_is_in_the_metrics(toy: Any, tmp_path: Path, capsys: Any) -> None:
    gate = {"hidden": 6, "balance": 0.0, "balance_warmup": 1, "noise": 0.0, "expert_dropout": 0.0}
    model = toy.build(fusion={"kind": "gate", "gate": gate})

    def tip(done: int) -> None:  # it collapses twice, and recovers in between
        with torch.no_grad():
            model.fusion.gate.rows["toy-wide"].bias.fill_(30 if done in (2, 4, 5) else 0)

    fit(model, toy.examples(model), config(steps=7, learning_rate=1e-9), output=tmp_path, quiet=True, after_step=tip)
    said = capsys.readouterr().err
    assert said.count("note: ") == 1 and "note: step 3: the gate has collapsed: 'toy-wide' holds" in said
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["warning"]] == [3, 5, 6]
    assert {line["warning"] for line in lines} == {None, "the gate has collapsed"}


def test_progress_counts_samples_as_the_metrics_do(toy: Any, tmp_path: Path, capsys: Any) -> None:
    model = toy.build()
    fit(model, toy.examples(model), config(steps=1), output=tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    shown = re.search(r"train 1/1 loss .*  (\d+) samples/s", capsys.readouterr().err)
    assert shown is not None and int(shown[1]) == pytest.approx(line["samples_per_second"], abs=0.6)  # both are rounded


def test_the_temperature_falls_to_its_own_and_stays_there_afterwards(toy: Any) -> None:
    gate = {"hidden": 6, "temperature": 0.5, "temperature_start": 2.0}
    model = toy.build(fusion={"kind": "gate", "gate": gate})
    seen: list[float] = []
    model.fusion.gate.register_forward_hook(lambda module, *_: seen.append(module.config.temperature * module.heat))
    examples = toy.examples(model)
    seen.clear()
    fit(model, examples, config(), quiet=True)
    wanted = [0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert seen[::2] == pytest.approx(wanted) and seen[0] == 2.0
    assert seen[1::2] == seen[::2], "what is said of the gate is of the same temperature"
    assert model.fusion.gate.heat == 1.0


def test_a_stage_fills_in_what_the_file_does_not_say() -> None:
    tuned = RunConfig.model_validate({"training": {"stage": "finetune", "warmup": 7}, "model": {"view": "pad"}})
    assert (tuned.training.learning_rate, tuned.training.warmup, tuned.model.view) == (1e-4, 7, "pad")
    assert (tuned.model.fusion.gate.noise, tuned.model.fusion.gate.hidden) == (0.0, 32)
    assert RunConfig.model_validate(tuned.model_dump(mode="json")) == tuned
    explored = RunConfig.model_validate({"training": {"stage": "transfer"}})
    assert explored.model.fusion.gate.temperature_start == 2.0 and explored.training.learning_rate == 1e-3
    given = {"training": {"stage": "finetune"}, "model": {"fusion": {"gate": {"noise": 0.2}}}}
    assert RunConfig.model_validate(given).model.fusion.gate.noise == 0.2
    with pytest.raises(ValueError, match="stage"):
        RunConfig.model_validate({"training": {"stage": "tune"}})


def test_a_second_stage_starts_where_the_first_ended(toy: Any, tmp_path: Path) -> None:
    def run(name: str, decoder: str = "none", **more: Any) -> RunConfig:
        model = {"clip": {"name": toy.clip}, "experts": list(toy.experts), "fusion": {"gate": {"hidden": 6}}}
        model |= {"decoder": {"name": toy.decoder, "train": decoder}}
        training = {"steps": 2, "batch_size": 5, "warmup": 1} | more.pop("training", {})
        text = {"model": model, "data": {"path": toy.data}, "training": training, "output": tmp_path / name}
        return RunConfig.model_validate(text | more)

    first = train(run("first"), quiet=True)
    tiny = {"steps": 1, "stage": "finetune", "learning_rate": 1e-12, "weight_decay": 0.0}
    second = train(run("second", "all", start=tmp_path / "first", training=tiny), quiet=True)
    assert torch.allclose(second.fusion.second.weight, first.fusion.second.weight, atol=1e-9)
    assert torch.equal(
        second.align["toy-fine"].get_buffer("depth-mean"), first.align["toy-fine"].get_buffer("depth-mean")
    )
    with pytest.raises(CheckpointError, match="does not fit this run's model: it has beside them"):
        train(run("third", start=tmp_path / "second"), quiet=True)
    fewer = run("fourth", start=tmp_path / "first")
    fewer = fewer.model_copy(update={"model": fewer.model.model_copy(update={"experts": fewer.model.experts[1:]})})
    with pytest.raises(CheckpointError, match=r"it also has expert 'toy-fine'; name it among model\.experts"):
        train(fewer, quiet=True)
