"""Every command computes on the device what it computes on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tove_core import ToveModel

Tove = Callable[..., Any]
Settings = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RUNS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sigmoid": {"model__fusion__gate__activation": "sigmoid"},
    "null": {"model__fusion__gate__null": True},
    "renormalise": {"model__fusion__rule": "renormalise", "model__fusion__gate__expert_dropout": 0.5},
    "uniform": {"model__fusion__kind": "uniform"},
    "concat": {"model__fusion__kind": "concat"},
    "clip-mlp": {"model__fusion__kind": "clip-mlp", "model__experts": []},
    "accumulate": {"training__accumulate": 2, "training__batch_size": 6},
    "average": {"training__average": 0.9},
    "lora": {"model__decoder__train": "lora"},
}


@pytest.fixture
def run(tove: Tove, settings: Settings, tmp_path: Path, device: str) -> Path:
    """A run that was trained on the device."""
    assert tove("train", settings("run"), "--quiet", "--device", device).code == 0
    return tmp_path / "run"


@pytest.mark.parametrize("name", RUNS)
def test_training_gives_the_weights_it_gives_on_the_cpu(
    name: str, tove: Tove, settings: Settings, tmp_path: Path, device: str
) -> None:
    for place in (device, "cpu"):
        path = settings(f"on-{place.partition(':')[0]}", **RUNS[name])
        done = tove("train", path, "--quiet", "--device", place)
        assert done.code == 0, done.err
    folders = [tmp_path / f"on-{device.partition(':')[0]}", tmp_path / "on-cpu"]
    got, want = (load_file(folder / "checkpoint" / "model.safetensors") for folder in folders)
    assert got.keys() == want.keys() and len(got) > 3
    for key, value in want.items():
        # A step of Adam is as long for a small gradient as for a large one, so that rounding shows in few weights.
        apart = (got[key].float() - value.float()).abs() > 1e-3
        assert apart.float().mean() < 0.02, (key, int(apart.sum()), value.numel())
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in folders]
    losses = [[json.loads(line)["loss"] for line in own] for own in lines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_training_in_bfloat16_ends_with_finite_weights(
    tove: Tove, settings: Settings, tmp_path: Path, device: str
) -> None:
    done = tove("train", settings("narrow", training__precision="bf16"), "--quiet", "--device", device)
    assert done.code == 0, done.err
    weights = load_file(tmp_path / "narrow" / "checkpoint" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())


def test_held_out_loss_is_measured_while_a_run_is_trained(
    tove: Tove, settings: Settings, toy: Any, tmp_path: Path, device: str
) -> None:
    some = toy.data.with_name("some.jsonl")
    some.write_text("".join(f"{line}\n" for line in toy.data.read_text().splitlines()[:7]))
    path = settings("watched", training__validate_every=2, validation={"path": str(some)})
    done = tove("train", path, "--quiet", "--device", device)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val_loss" in line] == [2, 4]


def test_a_stopped_run_goes_on(tove: Tove, settings: Settings, tmp_path: Path, device: str, monkeypatch: Any) -> None:
    from tove_core.training import run as runs

    plain = runs.fit
    words = ("train", settings("stopped", training__save_every=2), "--quiet", "--device", device)

    def stopping(*given: Any, **options: Any) -> None:
        def stop(done: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        plain(*given, **options, after_step=stop)

    monkeypatch.setattr(runs, "fit", stopping)
    assert tove(*words).code == 130
    monkeypatch.setattr(runs, "fit", plain)
    done = tove("train", tmp_path / "stopped", "--resume", "--quiet", "--device", device)
    assert done.code == 0 and (tmp_path / "stopped" / "checkpoint").is_dir(), done.err


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "{run}", "--task", "exact-match"),
        ("evaluate", "{run}", "--task", "captions", "--beams", 2),
        ("contributions", "{run}"),
        ("answer", "{run}", "{image}", "--question", "is it black?"),
        ("diagnose", "{run}", "--against", "{smaller}", "--out", "{out}"),
        ("select", "{run}", "--budget", 0.5, "--steps", 5, "--train", "--out", "{out}"),
        ("merge", "{run}", "--out", "{out}", "--set", "steps=3"),
        ("merge", "{run}", "--out", "{out}", "--set", "steps=3", "--control"),
        ("cache", "build", "{run}/config.yaml", "--out", "{out}"),
        ("train", "{smaller}", "--add", "toy-whole:large", "--set", "training.steps=2", "--out", "{out}", "--quiet"),
    ],
    ids=lambda words: " ".join(str(word) for word in words if not str(word).startswith("{")),
)
def test_a_command_of_the_life_cycle_runs(
    words: tuple[Any, ...], run: Path, tove: Tove, toy: Any, tmp_path: Path, device: str
) -> None:
    assert tove("detach", run, "toy-fine", "--out", tmp_path / "smaller").code == 0
    places = {"run": run, "smaller": tmp_path / "smaller", "out": tmp_path / "out", "image": toy.data.parent / "0.png"}
    said = [str(word).format(**places) for word in words]
    done = tove(*said, "--device", device)
    assert done.code == 0 and done.out, done.err


def test_what_was_merged_on_the_device_is_scored_and_exported(
    run: Path, tove: Tove, toy: Any, tmp_path: Path, device: str
) -> None:
    merged = tmp_path / "merged"
    assert tove("merge", run, "--out", merged, "--set", "steps=3", "--device", device).code == 0
    scored = tove("evaluate", merged, "--data", toy.data, "--task", "exact-match", "--device", device)
    assert scored.code == 0, scored.err
    exported = tove("export", merged, "--to", "clip", "--out", tmp_path / "clip")
    assert exported.code == 0, exported.err


def test_a_run_loaded_on_the_device_gives_the_tokens_and_answers_of_the_cpu(
    run: Path, toy: Any, device: str, near: Callable[..., None]
) -> None:
    there, here = (ToveModel.from_pretrained(run / "checkpoint", device=place) for place in (device, "cpu"))
    images = toy.pictures()
    assert {p.device.type for p in there.parameters()} == {device.partition(":")[0]}
    near(there.tokens(images), here.tokens(images))
    gates = here.gates(images)
    for name, found in there.gates(images).items():
        near(found, gates[name])
    for model in (there, here):
        model.detach("toy-wide", rule="renormalise")
    near(there.tokens(images), here.tokens(images))


def test_a_model_moves_to_the_device_and_back(toy: Any, device: str, near: Callable[..., None]) -> None:
    model = toy.build()
    toy.examples(model)
    want = model.tokens(toy.pictures())
    near(model.to(device).tokens(toy.pictures()), want)
    torch.testing.assert_close(model.to("cpu").tokens(toy.pictures()), want)


def test_the_page_answers_from_the_device_what_it_answers_from_the_cpu(toy: Any, device: str) -> None:
    from tove_core.app.host import Host, Question

    replies = []
    for place in (device, "cpu"):
        model = toy.build(seed=3, device=place)
        toy.examples(model)
        *_, last = Host(model, 5).answer(Question(toy.pictures(1)[0], "is it black?", experts=["toy-fine"]))
        replies.append(last)
    assert replies[0].text == replies[1].text and len(replies[0].maps) == 1
