from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tove_core import ToveModel

Tove = Callable[..., Any]
FEW = {"steps": 4, "batch_size": 5, "warmup": 1, "log_every": 1, "save_every": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def run(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of one expert whose validation data are two questions."""
    from tove_core.config import RunConfig
    from tove_core.training import train

    folder = tmp_path_factory.mktemp("grow") / "run"
    held = toy.data.with_name("held.jsonl")
    held.write_text("".join(f"{line}\n" for line in toy.data.read_text().splitlines()[1:3]))
    model = {"clip": {"name": toy.clip}, "experts": ["toy-wide"], "fusion": {"gate": {"hidden": 6}}}
    model["decoder"] = {"name": toy.decoder, "max_new_tokens": 4, "train": "all"}
    settings = {"model": model, "training": FEW, "output": str(folder)}
    settings |= {"data": {"path": str(toy.data)}, "validation": {"path": str(held)}}
    train(RunConfig.model_validate(settings), quiet=True)
    return folder


def changed(old: ToveModel, new: ToveModel) -> set[str]:
    tensors = dict(new.named_parameters()) | dict(new.named_buffers())
    return {name for name, t in (*old.named_parameters(), *old.named_buffers()) if not torch.equal(t, tensors[name])}


def test_add_trains_the_new_experts_alone_and_says_what_they_brought(tove: Tove, run: Path, toy: Any) -> None:
    done = tove("train", run, "--add", "toy-fine", "--add", "toy-experts/toy-whole:large", "--quiet")
    out = run.with_name("run+toy-fine+toy-experts-toy-whole-large")
    assert done.code == 0 and f"wrote {out / 'checkpoint'}" in done.out, done.err
    assert "2 held-out samples, without and with toy-fine, toy-experts/toy-whole:large" in done.out
    old, new = (ToveModel.from_pretrained(folder / "checkpoint") for folder in (run, out))
    assert new.active_experts == ["toy-wide", "toy-fine", "toy-experts/toy-whole:large"] and changed(old, new) == set()
    assert not torch.equal(new.tokens(toy.pictures()), old.tokens(toy.pictures()))
    report = json.loads((out / "growth.json").read_text())
    assert report["experts"] == new.active_experts[1:] and report["samples"] == 2
    assert report["data"]["path"].endswith("held.jsonl")
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["growth"]["source"] == str(run) and len(saved["model"]["experts"]) == 3


def test_experts_join_a_run_that_began_with_a_checkpoint(tove: Tove, run: Path, tmp_path: Path) -> None:
    second = yaml.safe_load((run / "config.yaml").read_text()) | {"start": str(run), "output": str(tmp_path / "second")}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    assert tove("train", tmp_path / "second.yaml", "--quiet").code == 0
    cache = ("cache", "build", tmp_path / "second", "--add", "toy-fine", "--out", tmp_path / "c", "--estimate")
    assert (estimated := tove(*cache)).code == 0, estimated.err
    grown = tove("train", tmp_path / "second", "--add", "toy-fine", "--out", tmp_path / "new", "--quiet")
    assert grown.code == 0, grown.err
    old, new = (ToveModel.from_pretrained(tmp_path / name) for name in ("second", "new"))
    assert changed(old, new) == set(), "it grew from the run, not from what that began with"
    assert changed(ToveModel.from_pretrained(run), new)
    assert yaml.safe_load((tmp_path / "new" / "config.yaml").read_text())["start"] is None
    # So does what is made from it, whose experts are fewer than the start's.
    assert tove("detach", tmp_path / "second", "toy-wide", "--out", tmp_path / "less").code == 0
    assert yaml.safe_load((tmp_path / "less" / "config.yaml").read_text())["start"] is None
    assert "would change the model" in tove("train", run, "--add", "toy-fine", "--set", "start=null").error


def test_a_run_that_starts_from_a_grown_one_is_told_of_gates_that_stand_apart(
    tove: Tove, run: Path, tmp_path: Path
) -> None:
    assert tove("train", run, "--add", "toy-fine", "--out", tmp_path / "grown", "--quiet").code == 0
    grown = yaml.safe_load((tmp_path / "grown" / "config.yaml").read_text())
    names = [one["name"] for one in grown["model"]["experts"]]
    words = ("train", run / "config.yaml", "--quiet", "--set", f"start={tmp_path / 'grown'}")
    words += ("--set", f"output={tmp_path / 'next'}", "--set", f"model.experts=[{', '.join(names)}]")
    said = "the gate of 'toy-fine' is 'own' there and 'shared' here; set its gate in model.experts"
    assert said in tove(*words).error
    apart = f"model.experts=[{', '.join(names[:-1])}, {{name: toy-fine, gate: own}}]"
    assert tove(*words[:-1], apart).code == 0


def test_the_report_is_about_the_old_model(tove: Tove, run: Path, tmp_path: Path) -> None:
    assert tove("train", run, "--add", "toy-whole", "--out", tmp_path / "new", "--quiet").code == 0
    scores = json.loads((tmp_path / "new" / "growth.json").read_text())["scores"]
    for folder, when in ((run, "before"), (tmp_path / "new", "after")):
        printed = tove("evaluate", folder).out.splitlines()
        total = next(line for line in printed if line.startswith("exact match")).split()
        assert float(total[2]) == pytest.approx(scores["all"][when], abs=6e-4)


def test_a_stopped_growth_goes_on_to_the_same_checkpoint(
    tove: Tove, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.training import run as runs

    add = ("train", run, "--add", "toy-fine", "--quiet", "--out")
    assert tove(*add, tmp_path / "whole").code == 0
    plain = runs.fit

    def stopping(*given: Any, **options: Any) -> None:
        def stop(done: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        plain(*given, **options, after_step=stop)

    monkeypatch.setattr(runs, "fit", stopping)
    assert tove(*add, tmp_path / "halves").code == 130
    monkeypatch.setattr(runs, "fit", plain)
    assert tove("train", tmp_path / "halves", "--resume", "--quiet").code == 0
    for file in ("checkpoint/model.safetensors", "growth.json"):
        assert (tmp_path / "halves" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_grown_run_is_a_run_and_grows_again(tove: Tove, run: Path, toy: Any, tmp_path: Path) -> None:
    first, second, small = tmp_path / "first", tmp_path / "second", tmp_path / "small"
    assert tove("train", run, "--add", "toy-fine", "--out", first, "--quiet").code == 0
    done = tove("train", first, "--add", "toy-whole", "--out", second, "--quiet", "--set", "training.steps=2")
    assert done.code == 0, done.err
    models = [ToveModel.from_pretrained(folder / "checkpoint") for folder in (first, second)]
    assert changed(*models) == set() and models[1].active_experts == ["toy-wide", "toy-fine", "toy-whole"]
    assert "toy-whole" in tove("contributions", second).out
    assert tove("detach", second, "toy-whole", "--out", small).code == 0
    assert torch.equal(ToveModel.from_pretrained(small).tokens(toy.pictures()), models[0].tokens(toy.pictures()))
    assert yaml.safe_load((small / "config.yaml").read_text())["growth"] is None


def test_a_configuration_may_say_who_joins_with_settings_of_their_own(tove: Tove, run: Path, tmp_path: Path) -> None:
    text = yaml.safe_load((run / "config.yaml").read_text())
    text |= {"output": str(tmp_path / "new"), "validation": None}
    text["growth"] = {"source": str(run), "experts": ["toy-fine", {"name": "toy-whole", "dtype": "bfloat16"}]}
    (tmp_path / "grow.yaml").write_text(yaml.safe_dump(text))
    done = tove("train", tmp_path / "grow.yaml", "--quiet")
    assert done.code == 0 and "no gain was measured" in done.out
    model = ToveModel.from_pretrained(tmp_path / "new" / "checkpoint")
    assert model.experts["toy-whole"].dtype == torch.bfloat16
    assert not (tmp_path / "new" / "growth.json").exists()


def test_growth_that_cannot_start_says_why_in_one_line(tove: Tove, run: Path, toy: Any, tmp_path: Path) -> None:
    none = tmp_path / "none"
    untrained = toy.build(["toy-wide"]).save_pretrained(tmp_path / "untrained")
    (untrained / "config.yaml").write_text((run / "config.yaml").read_text())
    for words, wanted in [
        (("train", none, "--add", "toy-fine"), "holds no run"),
        (("train", run / "checkpoint", "--add", "toy-fine"), "holds no run"),
        (("train", run, "--add", "toy-fin"), "did you mean toy-fine"),
        (("train", run, "--add", "toy-wide"), "holds an expert 'toy-wide' already"),
        (("train", run, "--add", "toy-fine", "--set", "model.view=pad"), "would change the model"),
        (("train", run, "--add", "toy-fine", "--set", "output=x"), "with --out"),
        (("train", run, "--add", "toy-fine", "--resume"), "exclude each other"),
        (("train", run, "--out", none), "--out goes with --add"),
        (("train", run, "--add", "toy-fine", "--out", run), "holds a run already"),
        (("train", untrained, "--add", "toy-fine"), "was never trained"),
    ]:
        assert wanted in tove(*words, "--quiet").error, words
    assert not none.exists()


def test_the_held_out_samples_may_be_fewer(tove: Tove, run: Path, tmp_path: Path) -> None:
    done = tove("train", run, "--add", "toy-fine", "--out", tmp_path / "new", "--limit", 1, "--quiet")
    assert done.code == 0 and "1 held-out samples, without and with toy-fine" in done.out, done.err
    report = json.loads((tmp_path / "new" / "growth.json").read_text())
    assert (report["samples"], report["data"]["limit"]) == (1, 1)
    # The run itself keeps what it names: it was asked for once.
    assert yaml.safe_load((tmp_path / "new" / "config.yaml").read_text())["validation"]["limit"] is None


def test_growth_looks_for_what_it_needs_before_anything_is_computed(
    tove: Tove, run: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.hub.checkpoints import MANIFEST

    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("images were encoded")

    bare, alone = (tmp_path / name for name in ("bare", "alone"))
    for folder, key, value in ((bare, "decoder", None), (alone, "experts", [])):
        shutil.copytree(run, folder)
        manifest = json.loads((folder / "checkpoint" / MANIFEST).read_text())
        manifest["config"][key] = value
        (folder / "checkpoint" / MANIFEST).write_text(json.dumps(manifest))
    monkeypatch.setattr(ToveModel, "encode", computed)
    add, gone = ("--add", "toy-fine", "--quiet", "--out", tmp_path / "out"), tmp_path / "gone.jsonl"
    for words, wanted in [
        (("train", bare, *add), "needs a decoder, and .*bare has none"),
        (("train", alone, *add), "there is no fusion for 'toy-fine' to join"),
        (("train", run, *add, "--add", "toy-wide"), "holds an expert 'toy-wide' already"),
        (("train", run, *add, "--add", "toy-fine"), "requested twice"),
        (("train", run, *add, "--add", "toy-whol"), "did you mean toy-whole"),
        (("train", run, *add, "--set", f"validation.path={gone}"), "gone.jsonl does not exist"),
        (("train", run, "--resume", "--limit", 3), "--limit is for experts that join a run, and none join"),
        (("train", run / "config.yaml", "--limit", 3), "--limit goes with --add"),
        (
            ("train", run, *add, "--set", "validation=null", "--set", "validation.limit=3"),
            "validation: it says limit but",
        ),
    ]:
        assert re.search(wanted, tove(*words).error), words
    assert not (tmp_path / "out").exists()
