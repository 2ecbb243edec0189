"""What commands refuse before they compute, and what they tell of settings that do little."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tove_core import ToveModel

Tove = Callable[..., Any]
Settings = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def plain(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run without experts."""
    from tove_core.config import RunConfig
    from tove_core.training import train

    folder = tmp_path_factory.mktemp("plain") / "run"
    whole = settings(folder)
    whole["model"]["experts"] = []
    train(RunConfig.model_validate(whole), quiet=True)
    return folder


def without_decoder(run: Path, folder: Path) -> Path:
    """Copy a run whose checkpoint then says that it has no decoder."""
    shutil.copytree(run, folder)
    path = folder / "checkpoint" / "tove.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["decoder"] = None
    path.write_text(json.dumps(manifest))
    return folder


def test_what_a_command_lacks_is_said_before_an_image_is_encoded(
    tove: Tove, write: Callable[..., Path], run: Path, plain: Path, toy: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("images were encoded")

    mute, image, out = without_decoder(run, tmp_path / "mute"), toy.pictures(1)[0], tmp_path / "out"
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    monkeypatch.setattr(ToveModel, "encode", computed)
    for words, wanted in [
        (("train", write(), "--set", "model.decoder=null"), "training needs a decoder, and model.decoder is none"),
        (
            ("train", write(), "--set", "model.decoder.train=all", "--set", "model.decoder.dtype=bfloat16"),
            "model.decoder is in bfloat16, where most steps are smaller than what a weight can change by",
        ),
        (("train", write(), "--set", "training.shard=full", "--set", "model.decoder=null"), "training needs a decoder"),
        (("merge", plain, "--out", out), "there is nothing to merge: the model has no fusion"),
        (("merge", run, "--out", below), "cannot be written"),
        (("contributions", plain), "the model has no expert on"),
        (("evaluate", mute), "cannot write text"),
        (("evaluate", mute, "--out", out), "cannot write text"),
        (("caption", mute, image), "cannot write text"),
        (("answer", mute, image, "--question", "what?"), "cannot write text"),
        (("diagnose", mute, "--against", plain, "--out", out), "cannot write text"),
        (("diagnose", plain, "--against", mute, "--out", out), "cannot write text"),
        (("diagnose", plain, "--out", out), "has no expert on"),
        (("diagnose", run, "--out", below), "cannot be written"),
        (("answer", run, image, "--question", " "), "--question is empty"),
        (("select", run, "--out", out, "--budget", "5"), "--budget is 5; give a share"),
        (("select", run, "--out", out, "--budget", "0.5", "--cost", "foo=3"), "costs are given for foo, and"),
        (("select", run, "--out", out, "--budget", "0.5", "--limit", 2), "images that are not asked about together"),
        (("evaluate", run, "--reader", "world", "--data", image), "--data goes with --reader"),
        (("data", "check", "jsonl:nope"), "set the PATH of READER:PATH to the jsonl data set"),
        (("clip", "zero-shot", "x", "--data", "nope"), "set --data to the jsonl data set"),
        (("clip", "zero-shot", "x", "--data", toy.data, "--view", "nope"), "--view 'nope' is not known"),
        (("clip", "zero-shot", "x", "--data", toy.data, "--classes", tmp_path / "file"), "names no class; give one a"),
        (("clip", "retrieval", "x", "--data", tmp_path), f"{tmp_path} is a folder; give the file in it"),
        (("score", tmp_path / "file"), f"{tmp_path / 'file'} is empty"),
        (("plan", "--licenses", "nope"), "there is no --licenses 'nope'; choose commercial or strict"),
        (("experts", "check", "toy-fine", "--all"), "both given"),
        (("train", run), f"{run} is the folder of a run: --resume goes on with it, and --add EXPERT"),
        (("plan", tmp_path), f"is a folder, and the path of a YAML file is wanted; of a run it is {tmp_path}/config.y"),
        (("data", "check", toy.data), f"say what reads it: READER:{toy.data}"),
        (("runs", "compare", tmp_path / "nope", run), f"there is no folder {tmp_path / 'nope'}"),
    ]:
        assert wanted in tove(*words, *(["--quiet"] if words[0] in ("train", "evaluate", "diagnose") else [])).error
    assert not out.exists() and not (tmp_path / "run").exists()


def test_a_rule_that_the_fusion_does_not_have_is_said_before_an_image_is_encoded(
    tove: Tove, toy: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.config import RunConfig
    from tove_core.training import train

    whole = settings(tmp_path / "run")
    whole["model"] |= {"fusion": {"kind": "concat"}, "experts": ["toy-whole"]}
    train(RunConfig.model_validate(whole), quiet=True)

    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("images were encoded")

    monkeypatch.setattr(ToveModel, "encode", computed)
    for words in (("contributions", tmp_path / "run"), ("diagnose", tmp_path / "run", "--out", tmp_path / "out")):
        assert "has no softmax to renormalise" in tove(*words, "--rule", "renormalise").error


def test_merging_takes_so_many_samples(tove: Tove, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merging = importlib.import_module("tove_core.merging.merge")  # `merge` of the package is the function
    seen: list[int] = []
    plain = merging.merge

    def counting(model: Any, examples: Any, *given: Any, **options: Any) -> Any:
        seen.append(len(examples))
        return plain(model, examples, *given, **options)

    monkeypatch.setattr(merging, "merge", counting)
    few = ("--set", "steps=2", "--set", "batch_size=2", "--set", "warmup=1")
    assert tove("merge", run, "--out", tmp_path / "merged", "--limit", 5, *few).code == 0
    assert seen == [5] and (tmp_path / "merged" / "open_clip_config.json").is_file()


def test_settings_that_cannot_do_what_they_say_are_told_once(tove: Tove, write: Callable[..., Path]) -> None:
    small = ("--set", "training.steps=2", "--set", "model.experts=[toy-whole]")
    done = tove("train", write(), "--quiet", *small, "--set", "training.warmup=2", "--set", "training.accumulate=6")
    notes = [line for line in done.err.splitlines() if line.startswith("note: training.")]
    assert done.code == 0 and len(notes) == 2, done.err
    assert "warmup is 2 and training.steps is 2" in notes[0] and "accumulate is 6, and a process takes 5" in notes[1]


def test_settings_that_do_what_they_say_are_not_told_of(tove: Tove, write: Callable[..., Path]) -> None:
    small = ("--set", "training.steps=2", "--set", "model.experts=[toy-whole]")
    done = tove("train", write(), "--quiet", *small, "--set", "training.warmup=1", "--set", "training.accumulate=5")
    assert done.code == 0 and "note: training." not in done.err


def test_validation_data_are_looked_at_before_anything_is_computed(
    tove: Tove, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToveModel, "encode", lambda *_, **__: pytest.fail("images were encoded"))
    (tmp_path / "val.jsonl").write_text('{"image": "gone.png", "text": "x"}\n')
    for file, wanted in [("nowhere.jsonl", "nowhere.jsonl does not exist; set validation.path"), ("val.jsonl", "gone")]:
        refused = tove("train", write(), "--quiet", "--set", f"validation.path={tmp_path / file}").error
        assert wanted in refused
    assert not (tmp_path / "run").exists()


def test_a_table_without_a_reader_is_not_taken_for_json(tove: Tove, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("image,text\n0.png,a red square\n")
    told = tove("train", write(), "--quiet", "--set", f"data.path={tmp_path / 'table.csv'}").error
    assert "is read as jsonl because no reader was given; set reader: csv" in told


def test_settings_that_have_no_effect_are_told_of(tove: Tove, write: Callable[..., Path]) -> None:
    small = ("--set", "training.steps=1", "--set", "model.experts=[toy-whole]", "--set", "training.warmup=0")
    keys = ["fusion.kind=uniform", "decoder.train=none", "decoder.lora.rank=4"]
    words = [word for key in keys for word in ("--set", f"model.{key}")]
    done = tove("train", write(), "--quiet", *small, *words, "--set", "training.decoder_learning_rate=0.1")
    notes = [line for line in done.err.splitlines() if line.startswith("note: ")]
    assert done.code == 0 and len(notes) == 3, done.err
    assert "fusion.gate.balance_warmup are set, and with model.fusion.kind uniform they do nothing" in notes[0]
    assert "model.decoder.lora.rank is set, and with model.decoder.train none" in notes[1]
    assert "training.decoder_learning_rate is set, and with model.decoder.train none" in notes[2]


def test_every_command_that_reads_data_names_them_alike(parser: Callable[..., Any]) -> None:
    from tove_core.cli.main import app

    top = parser(app).commands
    commands = {name: top[name] for name in ("evaluate", "score", "contributions", "diagnose", "select", "merge")}
    commands |= top["clip"].commands
    for name, command in commands.items():
        options = {spelling for parameter in command.params for spelling in parameter.opts}
        assert {"--data", "--reader", "--split", "--images", "--set"} <= options, name
        assert "--batch" not in options


def test_contributions_are_json_alone_without_a_bar(tove: Tove, run: Path, toy: Any) -> None:
    done = tove("contributions", run, "--json", "--quiet", "--data", toy.data, "--limit", 6, "--set", "max_broken=0.5")
    assert done.code == 0 and done.err == ""
    told = json.loads(done.out)
    assert told["run"] == str(run) and told["rule"] == "zero"
    assert {one["expert"] for one in told["experts"]} == {"toy-fine", "toy-wide", "toy-whole"}


def test_the_folder_of_a_run_stands_for_its_configuration(tove: Tove, run: Path) -> None:
    assert tove("data", "check", run, "--quick").out == tove("data", "check", run / "config.yaml", "--quick").out
    assert tove("plan", run, "--json").out == tove("plan", run / "config.yaml", "--json").out != ""


def test_help_is_in_the_order_of_the_life_cycle_and_breaks_no_line_by_itself(parser: Callable[..., Any]) -> None:
    from tove_core.cli.main import app

    top = parser(app)
    panels = list(dict.fromkeys(command.rich_help_panel for command in top.commands.values()))
    assert panels == ["Plan and data", "Train", "Measure", "Take experts away", "Deploy", "Look after"]
    for command in top.commands.values():
        assert all(part.count("\n") == 0 for part in (command.help or "").split("\n\n")), command.name
