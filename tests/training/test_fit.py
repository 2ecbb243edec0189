from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.config import TrainingConfig
from tove_core.errors import CheckpointError, ConfigError, DataError, ToveError
from tove_core.evaluation.loss import mean_loss
from tove_core.training import fit
from tove_core.training.examples import Examples
from tove_core.training.optimise import parameter_groups, schedule
from tove_core.training.state import save_state
from tove_core.training.step import TransferStep

LANGUAGE = {"train": "all"}


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"steps": 7, "batch_size": 5, "learning_rate": 1e-2, "warmup": 2, "log_every": 1} | changes
    )


def digests(model: Any, trained: bool) -> dict[str, str]:
    tensors = {n: p for n, p in model.named_parameters() if p.requires_grad == trained}
    buffers = {name: value for name, value in model.named_buffers() if name != "progress"}  # which says: trained
    tensors |= {} if trained else buffers
    return {n: hashlib.sha256(t.detach().numpy().tobytes()).hexdigest() for n, t in tensors.items()}


def trained_state(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def losses(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "balance", "gate")} for line in lines]


def test_the_loss_falls_and_no_frozen_parameter_changes(toy: Any) -> None:
    model = toy.build(decoder=LANGUAGE)
    examples = toy.examples(model)
    frozen, trainable, before = digests(model, False), digests(model, True), mean_loss(model, examples)
    fit(model, examples, config(steps=25), quiet=True)
    assert mean_loss(model, examples) < 0.7 * before
    assert digests(model, False) == frozen
    after = digests(model, True)
    # The tied or unused ones aside: every trained tensor moved.
    assert [name for name in trainable if trainable[name] == after[name]] == []
    assert model.trained and not model.training


def test_training_leaves_the_global_generator_as_it_was_and_draws_nothing_from_it(toy: Any) -> None:
    found = []
    for seed in (11, 12):
        model = toy.build(decoder=LANGUAGE)
        examples = toy.examples(model)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        fit(model, examples, config(steps=2), quiet=True)
        assert torch.equal(torch.get_rng_state(), before)
        with pytest.raises(ArithmeticError):
            fit(model, examples, config(steps=2), quiet=True, after_step=lambda _: 1 // 0)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(trained_state(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_with_decoder_train_none_the_language_model_stays(toy: Any) -> None:
    model = toy.build()
    examples = toy.examples(model)
    before = digests(model, False)
    fit(model, examples, config(), quiet=True)
    assert digests(model, False) == before
    assert any(name.startswith("decoder.language_model") for name in before)


@pytest.mark.parametrize("fusion", ["gate", "uniform", "concat", "clip-mlp"])
def test_every_fusion_trains(toy: Any, fusion: str) -> None:
    model = toy.build([] if fusion == "clip-mlp" else toy.experts, fusion=fusion)
    examples, before = toy.examples(model), trained_state(model)
    fit(model, examples, config(steps=3), quiet=True)
    changed = {name for name, p in trained_state(model).items() if not torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in changed} == {"fusion", "decoder"}


class Stopped(Exception):
    pass


def noisy(toy: Any, **gate: Any) -> Any:
    settings = {"noise": 0.7, "balance": 0.5, "balance_warmup": 1, "expert_dropout": 0.3, "hidden": 6} | gate
    return toy.build(decoder=LANGUAGE, fusion={"kind": "gate", "gate": settings}, seed=4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_equals_a_straight_one_to_the_last_bit(toy: Any, tmp_path: Path, precision: str) -> None:
    wanted = config(steps=9, save_every=2, precision=precision)
    straight, stopped = noisy(toy), noisy(toy)
    fit(straight, toy.examples(straight), wanted, seed=11, output=new(tmp_path / "straight"), quiet=True)

    def stop(done: int) -> None:
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        fit(stopped, toy.examples(stopped), wanted, seed=11, output=new(tmp_path / "b"), quiet=True, after_step=stop)
    torch.manual_seed(123)  # another process has another generator
    again, seen = noisy(toy), []
    fit(
        again,
        toy.examples(again),
        wanted,
        seed=11,
        output=tmp_path / "b",
        resume=True,
        quiet=True,
        after_step=seen.append,
    )
    assert seen == [5, 6, 7, 8, 9]
    wanted_state = trained_state(straight)
    assert [name for name, p in trained_state(again).items() if not torch.equal(p, wanted_state[name])] == []
    assert losses(tmp_path / "b") == losses(tmp_path / "straight")
    assert [line["step"] for line in losses(tmp_path / "b")] == list(range(1, 10))


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_another_seed_is_another_run(toy: Any, tmp_path: Path) -> None:
    found = []
    for seed in (1, 1, 2):
        model = noisy(toy)
        fit(model, toy.examples(model), config(steps=3), seed=seed, quiet=True)
        found.append(trained_state(model)["fusion.second.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("change", [{"noise": 0.0}, {"expert_dropout": 0.0}, {"balance": 0.0}])
def test_noise_dropout_and_balance_each_have_an_effect(toy: Any, change: dict) -> None:
    found = []
    for settings in ({}, change):
        model = noisy(toy, **settings)
        fit(model, toy.examples(model), config(steps=4), quiet=True)
        found.append(trained_state(model)["fusion.gate.hidden.weight"])
    assert not torch.equal(*found)


def test_the_balance_term_waits_for_its_warmup(toy: Any, tmp_path: Path) -> None:
    model = noisy(toy, balance_warmup=3)
    fit(model, toy.examples(model), config(steps=5), output=tmp_path, quiet=True)
    balances = [line["balance"] for line in losses(tmp_path)]
    assert balances[:3] == [0, 0, 0] and all(value > 0 for value in balances[3:])


def test_metrics_are_one_line_per_logged_step(toy: Any, tmp_path: Path) -> None:
    model = toy.build()
    fit(model, toy.examples(model), config(log_every=3), output=tmp_path, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert all(line["loss"] > 0 and line["samples_per_second"] > 0 for line in lines)
    # The warm-up is over; from there half a cosine down to a thousandth.
    rates = [1e-2 * (1e-3 + 0.999 * 0.5 * (1 + math.cos(math.pi * step / 7))) for step in (2, 5, 6)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates)
    assert all(sum(line["gate"].values()) == pytest.approx(1, abs=1e-3) for line in lines)
    assert set(lines[0]["gate"]) == set(toy.experts)


def test_a_loss_that_is_not_finite_stops_with_step_and_samples(toy: Any) -> None:
    model = toy.build()
    examples = toy.examples(model)
    examples.table.features["clip"][:] = float("nan")
    before = trained_state(model)
    with pytest.raises(ToveError, match=r"the loss is nan at step 1 \(samples 's\d+'") as caught:
        fit(model, examples, config(), quiet=True)
    assert "\n" not in str(caught.value) and "for which 'clip' gives values that are not finite" in str(caught.value)
    assert all(torch.equal(p, before[name]) for name, p in trained_state(model).items())


def test_what_cannot_be_trained_is_refused(toy: Any) -> None:
    model = toy.build(decoder=None)
    with pytest.raises(ConfigError, match="needs a decoder"):
        fit(model, toy.examples(model), config(), quiet=True)
    still = toy.build([])
    still.decoder.projector.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing is trainable"):
        fit(still, toy.examples(still), config(), quiet=True)


def test_a_state_of_another_model_is_refused(toy: Any, tmp_path: Path) -> None:
    model = toy.build()
    fit(model, toy.examples(model), config(steps=2, save_every=1), output=tmp_path, quiet=True)
    other = toy.build(["toy-fine"])
    with pytest.raises(CheckpointError, match="belongs to another model"):
        fit(other, toy.examples(other), config(), output=tmp_path, resume=True, quiet=True)
    wider = toy.build(fusion={"kind": "gate", "hidden": 7, "gate": {"hidden": 6}})
    with pytest.raises(CheckpointError, match="belongs to another model"):
        fit(wider, toy.examples(wider), config(), output=tmp_path, resume=True, quiet=True)
    with pytest.raises(CheckpointError, match="no state to resume from"):
        fit(model, toy.examples(model), config(), output=tmp_path / "none", resume=True, quiet=True)


def test_a_state_that_cannot_be_written_leaves_the_old_one(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.training import state

    step = TransferStep(None, toy.build([]).decoder)
    optimizer = torch.optim.AdamW(parameter_groups(step, config()))
    save_state(tmp_path / "state", 3, step, optimizer)
    before = {p: p.read_bytes() for p in (tmp_path / "state").rglob("*.*")}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_state(tmp_path / "state", 4, step, optimizer)
    assert len(before) == 2 and {p: p.read_bytes() for p in (tmp_path / "state").rglob("*.*")} == before


def test_cached_features_are_close_to_live_ones_and_train_alike(toy: Any) -> None:
    model = toy.build()
    cached = toy.examples(model)
    live = Examples(model, toy.samples())
    for name, value in live.features([4, 1, 4]).items():
        kept = cached.features([4, 1, 4])[name]
        assert kept.dtype == torch.float32
        assert (kept - value).abs().max() <= 1e-3 * value.abs().max()
    assert mean_loss(model, cached) == pytest.approx(mean_loss(model, live), rel=1e-3)
    fit(model, live, config(steps=2), quiet=True)


def test_a_table_of_other_images_is_refused(toy: Any) -> None:
    model = toy.build()
    table = toy.examples(model).table
    with pytest.raises(DataError, match="12 images, the samples have 3"):
        Examples(model, toy.samples()[:3], table)


def test_one_of_several_right_texts_is_picked_and_all_come_up(toy: Any) -> None:
    examples = Examples(toy.build(), toy.samples())
    first = examples.samples[0].targets
    picked = {examples.targets([0], [turn])[0] for turn in range(2)}
    assert picked == set(first) and len(first) == 2
    assert examples.prompts([0, 1]) == ["Describe the image.", "what colour is it?"]


def test_rates_warm_up_and_end_at_almost_nothing() -> None:
    rates = [schedule(step, config(steps=100, warmup=10)) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01) and max(rates) == rates[9]
    assert all(a > b for a, b in itertools.pairwise(rates[9:])) and 0 < rates[-1] < 0.01


def test_groups_separate_the_language_model_and_spare_biases_from_decay(toy: Any) -> None:
    model = toy.build(decoder=LANGUAGE)
    step = TransferStep(model.fusion, model.decoder)
    groups = parameter_groups(step, config(decoder_learning_rate=1e-4))
    counted = [id(p) for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(counted) == sorted(id(p) for p in step.parameters() if p.requires_grad)
    language = {id(p) for p in model.decoder.language_model.parameters()}
    for group in groups:
        of_language = {id(p) in language for p in group["params"]}  # type: ignore[attr-defined]
        assert len(of_language) == 1
        assert group["lr"] == (1e-4 if of_language.pop() else 1e-2)
        assert all((p.dim() > 1) == (group["weight_decay"] > 0) for p in group["params"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_all_texts_of_a_sample_come_before_one_comes_again(toy: Any, count: int) -> None:
    texts = tuple("abcdefg"[:count])
    samples = [replace(sample, targets=texts) for sample in toy.samples()]
    examples = Examples(toy.build([], decoder=None), samples)
    rounds = [examples.targets(range(12), [turn] * 12, seed=5) for turn in range(40 * count)]
    laps = [own[lap : lap + count] for own in zip(*rounds, strict=True) for lap in range(0, 40 * count, count)]
    assert all(sorted(lap) == list(texts) for lap in laps)
    # Of the orders that there are none is preferred: each text stands first equally often, in about 480 laps.
    first = [sum(lap[0] == text for lap in laps) * count / len(laps) for text in texts]
    assert max(first) < 1.4 and min(first) > 0.6 and len(set(map(tuple, laps))) >= count
    again = [a[-1] == b[0] for a, b in itertools.pairwise(laps)]
    assert sum(again) * count / len(again) == pytest.approx(1, abs=0.4), "one lap says nothing of the next"
    other = [examples.targets(range(12), [turn] * 12, seed=6) for turn in range(count)]
    assert other != rounds[:count]


def test_no_gradients_are_left(toy: Any) -> None:
    model = toy.build(decoder=LANGUAGE)
    fit(model, toy.examples(model), config(steps=2), quiet=True)
    assert [name for name, p in model.named_parameters() if p.grad is not None] == []


def test_an_accelerator_of_ones_own_may_come_before_and_after(toy: Any, tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    def trained(name: str) -> list[dict[str, Any]]:
        model = toy.build()
        fit(model, toy.examples(model), config(steps=3), output=tmp_path / name, quiet=True)
        return losses(tmp_path / name)

    states = [kind._shared_state for kind in (AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    try:
        for state in states:
            state.clear()
        alone = trained("alone")
        mine = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)  # none was there before
        beside = trained("beside")
        assert mine.mixed_precision == "bf16" and mine.gradient_accumulation_steps == 4
        assert Accelerator(cpu=True, gradient_accumulation_steps=4).mixed_precision == "bf16"
        assert beside == alone
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)
