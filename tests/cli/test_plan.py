from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tove = Callable[..., Any]


def test_a_plan_from_options_alone(tove: Tove, toy: Any) -> None:
    done = tove("plan", "--experts", "toy-fine, toy-whole:large", "--clip", toy.clip, "--decoder", "none", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert [(one["part"], one["name"]) for one in told["parts"]][1:3] == [
        ("expert", "toy-fine"),
        ("expert", "toy-whole:large"),
    ]
    assert told["total"]["params"]["value"] == sum(one["params"]["value"] for one in told["parts"])
    assert told["total"]["experts"] == {"licenses": [], "commercial": True} and told["batch"] == 1


def test_options_go_over_the_file_and_training_takes_its_batch(tove: Tove, toy: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model:\n  clip: {{name: '{toy.clip}'}}\n  decoder: {{name: '{toy.decoder}'}}\n"
                    "  experts: [toy-wide]\ntraining: {batch_size: 12}\n")  # fmt: skip
    done = tove("plan", file, "--train")
    assert done.code == 0 and "memory for training, 12 images" in done.out and "expert toy-wide" in done.out
    assert "training.shard" not in done.err
    assert "training.shard divides" in tove("plan", file, "--train", "--set", "training.shard=full").err
    done = tove("plan", file, "--experts", "", "--batch-size", "3", "--set", "model.clip.layer=-1")
    assert "memory for inference, 3 images" in done.out and "toy-wide" not in done.out
    done = tove("plan", file, "--fusion", "uniform", "--json")
    assert [one["name"] for one in json.loads(done.out)["parts"]][2] == "uniform"


@pytest.mark.parametrize("json_too", [False, True])
def test_a_refused_licence_is_exit_code_one_after_the_plan(tove: Tove, toy: Any, json_too: bool) -> None:
    words = ["plan", "--experts", "toy-wide", "--clip", toy.clip, "--decoder", "none", "--licenses", "commercial"]
    done = tove(*words, *(["--json"] if json_too else []))
    assert "licen" in done.error and "toy-wide" in done.out
    allowed = tove(*words, "--set", "model.licenses.allow=[toy-wide]")
    assert allowed.code == 0 and "note: CLIP" in allowed.err and "did not check" in allowed.err
    assert "choose commercial or strict" in tove(*words[:-1], "comercial").error


def test_training_refuses_a_licence_before_it_starts(tove: Tove, toy: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model:\n  clip: {{name: '{toy.clip}'}}\n  decoder: {{name: '{toy.decoder}'}}\n"
                    f"  experts: [toy-wide]\ndata: {{path: '{toy.data}'}}\noutput: {tmp_path / 'run'}\n")  # fmt: skip
    assert "toy-wide" in tove("train", file, "--licenses", "commercial").error
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
    assert "exclude each other" in tove("train", tmp_path, "--resume", "--licenses", "commercial").error


@pytest.fixture
def run_file(toy: Any, tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(f"model:\n  clip: {{name: '{toy.clip}'}}\n  decoder: {{name: '{toy.decoder}'}}\n"
                    f"  experts: [toy-wide]\ndata: {{path: '{toy.data}'}}\n"
                    "training: {batch_size: 12, steps: 7, save_every: 3, cache: features}\n")  # fmt: skip
    return file


def test_a_run_is_told_with_disk_computation_and_hours(tove: Tove, run_file: Path) -> None:
    done = tove("plan", run_file, "--train", "--images", "5000", "--json")
    run = json.loads(done.out)["run"]
    assert run["data"]["images"] == 5000 and run["hours"] is None and run["disk"]["where"] == "features"
    text = tove("plan", run_file, "--train", "--tflops", "0.001").out
    assert "the run: 7 steps of 12 samples" in text and "distinct images: 12 (counted by reader jsonl)" in text
    assert "features in features" in text and "given with --tflops" in text and "an estimate" in text
    plain = tove("plan", run_file, "--train", "--set", "data.path=gone.jsonl").out
    assert "per 1,000 images" in plain and "together: >=" in plain and "--measure" in plain
    assert "the run" not in tove("plan", run_file).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train", "--tflops", "0"], "--tflops 0 was given"),
        (["--train", "--images", "0"], "--images 0 was given"),
        (["--measure"], "give its YAML file, and --train"),
        (["--train", "--measure", "--tflops", "3"], "give one of them"),
        (["--train", "--device", "cpu"], "--device says where --measure runs"),
        (["--train", "--measure", "--decoder", "none"], "has no decoder"),
        (["--train", "--measure", "--device", "nowhere"], "'nowhere' cannot be used here"),
    ],
)
def test_options_of_a_run_that_make_no_sense_are_refused(tove: Tove, run_file: Path, words: Any, said: str) -> None:
    assert said in tove("plan", run_file, *words).error


def test_a_model_without_a_file_is_no_run(tove: Tove, toy: Any) -> None:
    words = ["plan", "--clip", toy.clip, "--decoder", toy.decoder, "--train"]
    assert "--measure is about a run" in tove(*words, "--measure").error
    assert "the run" not in tove(*words).out


def test_memory_for_training_is_of_a_part_of_the_step_where_it_is_taken_in_parts(tove: Tove, run_file: Path) -> None:
    assert "12 images at a time" in tove("plan", run_file, "--train").out
    assert "3 images at a time" in tove("plan", run_file, "--train", "--set", "training.accumulate=5").out
