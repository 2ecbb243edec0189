from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def runs(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `hub`, with two experts, and `plain`, without any."""
    from tove_core.config import RunConfig
    from tove_core.training import train

    root = tmp_path_factory.mktemp("diagnose")
    decoder = {"name": toy.decoder, "max_new_tokens": 4, "train": "all"}
    training = {"steps": 8, "batch_size": 6, "warmup": 1, "learning_rate": 0.02}
    for name, experts, kind in (("hub", ["toy-fine", "toy-wide"], "gate"), ("plain", [], "clip-mlp")):
        fusion = {"kind": kind, "gate": {"hidden": 6}}
        model = {"clip": {"name": toy.clip}, "experts": experts, "fusion": fusion, "decoder": decoder}
        whole = {"model": model, "data": {"path": str(toy.data)}, "training": training, "output": str(root / name)}
        train(RunConfig.model_validate(whole), quiet=True)
    return root


def test_two_runs_become_a_page_with_figures(tove: Tove, runs: Path, tmp_path: Path) -> None:
    done = tove("diagnose", runs / "hub", "--against", runs / "plain", "--out", tmp_path / "out", "--quiet")
    assert done.code == 0, done.err
    assert f"wrote {tmp_path / 'out' / 'index.html'} and diagnosis.json" in done.out
    assert done.out.count("95 % interval") == 2 and "toy-fine" in done.out
    figures = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert (figures["run"], figures["other"]) == (str(runs / "hub"), str(runs / "plain"))
    assert [kind["kind"] for kind in figures["parts"][0]["kinds"]] == ["colour", "dark"]
    assert figures["experts"] == ["toy-fine", "toy-wide"] and not figures["other_is_run_without_experts"]
    printed = tove("evaluate", runs / "hub").out.splitlines()
    total = next(line for line in printed if line.startswith("exact match")).split()
    assert float(total[2]) == pytest.approx(figures["parts"][0]["total"]["run"], abs=6e-4)


def test_an_evaluation_kept_by_evaluate_stands_for_its_run(tove: Tove, runs: Path, toy: Any, tmp_path: Path) -> None:
    asking = toy.data.with_name("questions.jsonl")
    lines = [line for line in toy.data.read_text().splitlines() if "question" in line]
    asking.write_text("\n".join(lines) + "\n")
    kept, words = tmp_path / "kept", ("diagnose", runs / "hub", "--data", asking, "--quiet", "--against")
    assert tove("evaluate", runs / "plain", "--data", asking, "--out", kept, "--quiet").code == 0
    for other, name in ((kept, "a"), (runs / "plain", "b")):
        done = tove(*words, other, "--out", tmp_path / name)
        assert done.code == 0, done.err
    first, second = (json.loads((tmp_path / name / "diagnosis.json").read_text()) for name in "ab")
    assert first["parts"] == second["parts"] and first["examples"] == second["examples"]
    # Of data that mix questions and captions it answered one task's, and these are diagnosed.
    mixed = ("--data", toy.data, "--task", "exact-match", "--quiet")
    assert tove("evaluate", runs / "plain", *mixed, "--out", tmp_path / "mixed").code == 0
    done = tove("diagnose", runs / "hub", *mixed, "--against", tmp_path / "mixed", "--out", tmp_path / "of-mixed")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "of-mixed" / "diagnosis.json").read_text())["samples"] == 8
    asking.write_text("\n".join(lines[1:]) + "\n")
    assert "answered 8 samples and 7 are asked here; 1 ids" in tove(*words, kept, "--out", tmp_path / "c").error
    asking.write_text("\n".join(lines).replace('"kind": "dark"', '"kind": "night"') + "\n")
    assert "other kinds: 4 of 8 samples differ" in tove(*words, kept, "--out", tmp_path / "c").error
    asking.write_text("\n".join(lines) + "\n")
    told = tove(*words, kept, "--beams", 2, "--out", tmp_path / "c").error
    assert "answered with 1 beams and the run would be with 2; give --beams 1" in told


def test_alone_a_run_is_compared_with_itself_without_experts(tove: Tove, runs: Path, tmp_path: Path) -> None:
    words = ("diagnose", runs / "hub", "--limit", 9, "--examples", 0, "--rule", "renormalise", "--quiet")
    done = tove(*words, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert figures["other"] == f"{runs / 'hub'} without experts" and figures["other_is_run_without_experts"]
    assert figures["rule"] == "renormalise" and figures["samples"] == 9 and figures["examples"] == []


def test_what_cannot_be_diagnosed_is_said_in_one_line(tove: Tove, runs: Path, toy: Any, tmp_path: Path) -> None:
    hub, none, full = runs / "hub", tmp_path / "none", tmp_path / "full"
    full.mkdir()
    (full / "kept.txt").write_text("mine")
    captions = toy.data.with_name("told.jsonl")
    captions.write_text("".join(f"{line}\n" for line in toy.data.read_text().splitlines() if '"text"' in line))
    other = tmp_path / "other"
    (other / "checkpoint").mkdir(parents=True)
    (other / "checkpoint" / "tove.json").write_text("{}")
    (other / "config.yaml").write_text((hub / "config.yaml").read_text().replace(str(toy.data), str(captions)))
    out = ("--quiet", "--out", tmp_path / "out")
    for words, wanted in [
        ((none,), f"there is no folder {none}"),
        ((hub, "--against", none), f"there is no folder {none}"),
        ((hub, "--against", other), "which are different data; name one data set for both"),
        ((hub, "--data", captions), "none of 4 samples asks a question"),
        ((hub, "--rule", "x"), "there is no rule 'x'"),
        ((hub, "--task", "pop"), "did you mean 'pope'"),
        ((runs / "plain",), "has no expert on"),
    ]:
        assert wanted in tove("diagnose", *words, *out).error, words
    assert f"{hub} on {toy.data} and" in tove("diagnose", hub, "--against", other, *out).error, "jsonl has no splits"
    assert "exists" in tove("diagnose", hub, "--quiet", "--out", full).error
    assert not (tmp_path / "out").exists()
