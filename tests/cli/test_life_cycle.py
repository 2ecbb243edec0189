from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from tove_core import ToveModel
from tove_core.cli import device
from tove_core.cli.main import app
from tove_core.config import RunConfig
from tove_core.merging.write import Merging
from tove_core.settings import read_config
from tove_core.training.examples import Examples

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_train_writes_a_run_that_says_how_it_was_made(tove: Tove, write: Callable[..., Path], tmp_path: Path) -> None:
    done = tove(
        "train", write(), "--quiet", "--set", "training.steps=4", "--set", "model.experts=[toy-fine, toy-whole]"
    )
    assert done.code == 0 and str(tmp_path / "run" / "checkpoint") in done.out
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"config.yaml", "metrics.jsonl", "state", "checkpoint"}
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["training"]["steps"] == 4 and resolved["training"]["betas"] == [0.9, 0.98]
    assert [expert["name"] for expert in resolved["model"]["experts"]] == ["toy-fine", "toy-whole"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    model = ToveModel.from_pretrained(tmp_path / "run" / "checkpoint")
    assert model.trained and model.calibrated and model.active_experts == ["toy-fine", "toy-whole"]
    again = tove("train", write(), "--quiet")
    assert "holds a run already" in again.error


def test_a_stopped_run_goes_on_to_the_same_checkpoint(
    tove: Tove, write: Callable[..., Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.training import run as runs

    def stopping(*given: Any, **options: Any) -> None:
        def stop(done: int) -> None:
            if done == 5:
                raise KeyboardInterrupt

        plain(*given, **options, after_step=stop)

    plain = runs.fit
    monkeypatch.setattr(runs, "fit", stopping)
    assert tove("train", write(), "--quiet").code == 130
    monkeypatch.setattr(runs, "fit", plain)
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert tove("train", tmp_path / "run", "--resume", "--quiet").code == 0
    wanted, found = ((folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (run, tmp_path / "run"))
    assert found == wanted


def test_evaluate_prints_scores_and_writes_what_was_said(tove: Tove, run: Path, tmp_path: Path) -> None:
    done = tove("evaluate", run, "--limit", 8, "--predictions", tmp_path / "said.jsonl")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    # The data hold captions and questions: each get their scores, every one with its interval.
    assert [line for line in lines if "samples of" in line] == [
        "captions: 3 samples of 3 images", "exact-match: 5 samples of 5 images"
    ]  # fmt: skip
    scored = [line.split(" ")[0] for line in lines if re.search(r"[0-9.]+ to [0-9.]+$", line)]
    assert {"CIDEr-D", "exact", "majority", "colour", "dark"} <= set(scored)
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"s{number}" for number in range(8)]


def test_evaluate_takes_the_validation_data_or_those_it_is_given(
    tove: Tove, write: Callable[..., Path], toy: Any, tmp_path: Path
) -> None:
    few = toy.data.with_name("few.jsonl")
    few.write_text("".join(f"{line}\n" for line in toy.data.read_text().splitlines()[1:3]))
    validation = ["--set", f"validation.path={few}", "--set", "training.steps=1"]
    assert tove("train", write(), "--quiet", *validation).code == 0
    for words, count in (((), 2), (("--limit", 1), 1), (("--data", toy.data), 8)):
        done = tove("evaluate", tmp_path / "run", *words)
        told = next(line for line in done.out.splitlines() if line.startswith("exact-match: "))
        assert int(told.split()[1]) == count


def test_an_evaluation_with_a_task_can_be_scored_again_and_compared(
    tove: Tove, run: Path, toy: Any, tmp_path: Path
) -> None:
    asking = toy.data.with_name("asking.jsonl")
    lines = toy.data.read_text().splitlines()
    asking.write_text("".join(f"{line}\n" for line in lines if "question" in line))
    words = ("evaluate", run, "--data", asking, "--task", "gqa", "--quiet")
    done = tove(*words, "--out", tmp_path / "a")
    assert done.code == 0, done.err
    assert "exact match" in done.out and "95 % interval" in done.out and str(tmp_path / "a") in done.out
    assert tove(*words, "--predictions", tmp_path / "b.jsonl").code == 0
    # The folder needs nothing else; a file needs its data named.
    again = tove("score", tmp_path / "a", "--report", tmp_path / "scores.json")
    assert again.out.splitlines()[0] == "gqa: 8 samples of 8 images"
    saved = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert json.loads((tmp_path / "scores.json").read_text()) == saved
    assert "give --data and --reader" in tove("score", tmp_path / "b.jsonl").error
    file = tove("score", tmp_path / "b.jsonl", "--data", asking, "--task", "gqa")
    assert file.out == again.out.replace(f"wrote {tmp_path / 'scores.json'}\n", "")
    against = tove("score", tmp_path / "a", "--against", tmp_path / "b.jsonl")
    row = next(line for line in against.out.splitlines() if line.startswith("exact match")).split()
    assert row[2] == row[3] and row[4] == "+0.0000" and row[-1] == "1"
    (tmp_path / "b.jsonl").write_text('{"id": "s1", "prediction": "red"}\n')
    assert "of 8 samples 7 have no prediction" in tove("score", tmp_path / "a", "--against", tmp_path / "b.jsonl").error
    assert "did you mean 'vqa'" in tove("score", tmp_path / "a", "--task", "vqaa").error
    assert "no predictions to score" in tove("score", tmp_path).error


def test_caption_and_answer_say_one_line_per_image(tove: Tove, run: Path, toy: Any) -> None:
    images = toy.pictures(2)
    model = ToveModel.from_pretrained(run / "checkpoint")
    done = tove("caption", run, *images)
    assert done.out.splitlines() == [f"{p}: {s}" for p, s in zip(images, model.caption(images), strict=True)]
    done = tove("answer", run / "checkpoint", images[1], "--question", "is it black?", "--beams", 2)
    assert done.out == f"{images[1]}: {model.answer(images[1], 'is it black?', num_beams=2)[0]}\n"
    assert "never trained" not in done.err


def test_contributions_lists_every_expert(tove: Tove, run: Path) -> None:
    done = tove("contributions", run, "--rule", "renormalise")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()[1:4]]
    assert {row[0] for row in rows} == {"toy-fine", "toy-wide", "toy-whole"}
    losses = [float(row[1]) for row in rows]
    assert losses == sorted(losses, reverse=True)


@pytest.fixture(scope="module")
def live(settings: Any, toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps no features, on ten of twelve samples, one of which has a torn image."""
    from tove_core.config import RunConfig
    from tove_core.training import train

    root = tmp_path_factory.mktemp("live")
    lines = [json.loads(line) for line in toy.data.read_text().splitlines()]
    (root / "torn.png").write_bytes(b"\x89PNG torn")
    for number, line in enumerate(lines):
        line["image"] = "torn.png" if number == 4 else str(toy.data.parent / line["image"])
    (root / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"path": str(root / "toy.jsonl"), "limit": 10, "max_broken": 0.2}
    training = {"steps": 3, "batch_size": 5, "warmup": 1, "cache": False, "workers": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(RunConfig.model_validate(settings(root / "run", data=data, training=training)), quiet=True)
    return root / "run"


def test_commands_on_a_run_read_as_it_was_trained(
    tove: Tove, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = [], Examples.__init__

    def noted(self: Examples, *given: Any, **options: Any) -> None:
        plain(self, *given, **options)
        made.append(self)

    def kept(*_: Any, **__: Any) -> None:
        raise AssertionError("all features were to be kept")

    monkeypatch.setattr(Examples, "__init__", noted)
    monkeypatch.setattr(Examples, "cached", kept)
    for words in (
        ("contributions", live, "--batch-size", 4),
        ("merge", live, "--out", tmp_path / "merged", "--set", "steps=2", "--set", "batch_size=5"),
        ("merge", live, "--out", tmp_path / "few", "--set", "steps=1", "--set", "batch_size=2", "--limit", 50),
        ("evaluate", live, "--limit", 10),
    ):
        made.clear()
        done = tove(*words)
        assert done.code == 0, done.err
        (examples,) = made
        # Within the run's limit whatever the option says, as it is for training.
        assert len(examples) == 10 and examples.broken.limit == 0.2 and examples.workers == 1, words
        assert examples.table is None and "encode" not in done.err
    assert "left out: 1 sample (image unreadable)" in done.out


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_detach_writes_what_the_run_is_with_that_expert_off(
    tove: Tove, run: Path, toy: Any, tmp_path: Path, rule: str
) -> None:
    done = tove("detach", run, "toy-wide", "toy-fine", "--out", tmp_path / "small", "--rule", rule)
    assert done.code == 0 and done.out.strip().endswith("with toy-whole")
    full = ToveModel.from_pretrained(run / "checkpoint")
    full.detach("toy-wide", rule)
    full.detach("toy-fine", rule)
    small = ToveModel.from_pretrained(tmp_path / "small")
    assert torch.equal(small.tokens(toy.pictures()), full.tokens(toy.pictures()))
    assert list(small.experts) == ["toy-whole"]
    assert tove("caption", tmp_path / "small", *toy.pictures(1)).code == 0


def test_a_gpu_that_nobody_asked_for_is_told_once(
    tove: Tove, run: Path, write: Callable[..., Path], toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, commands = "--device cuda uses it", [
        ("caption", run, *toy.pictures(2)),
        ("contributions", run, "--limit", 4),
        ("evaluate", run, "--data", toy.data, "--limit", 4),
        ("train", write(), "--quiet"),
        ("cache", "build", run, "--out", tmp_path / "cache", "--quiet"),
        ("merge", run, "--out", tmp_path / "merged", "--set", "steps=1"),
    ]  # fmt: skip
    monkeypatch.setattr(device, "_has_gpu", lambda: True)
    for words in commands:
        done = tove(*words)
        assert done.code == 0 and done.err.count(told) == 1 and told not in done.out, words
    assert told not in tove("caption", run, *toy.pictures(1), "--device", "cpu").err
    monkeypatch.setattr(device, "_has_gpu", lambda: False)
    assert told not in tove("caption", run, *toy.pictures(1)).err


def test_every_command_that_takes_a_device_tells_of_a_gpu() -> None:
    groups, commands = [typer.main.get_command(app)], []
    while groups:
        for one in groups.pop().commands.values():  # type: ignore[attr-defined]
            (groups if hasattr(one, "commands") else commands).append(one)
    taking = {inspect.getmodule(one.callback) for one in commands if any(p.name == "device" for p in one.params)}
    assert len(taking) > 5
    silent = {module.__name__ for module in taking if "tell_unused_gpu(device)" not in inspect.getsource(module)}
    assert silent == {"tove_core.cli.plan", "tove_core.cli.doctor"}, "they compute nothing without"


def test_merge_writes_a_clip_and_a_checkpoint_that_answers(tove: Tove, run: Path, toy: Any, tmp_path: Path) -> None:
    done = tove("merge", run, "--out", tmp_path / "merged", "--set", "steps=2", "--set", "batch_size=4")
    assert done.code == 0 and f"local-dir:{tmp_path / 'merged'}" in done.out
    assert tove("answer", tmp_path / "merged", *toy.pictures(1), "--question", "is it black?").code == 0
    merged = toy.build([], clip=f"local-dir:{tmp_path / 'merged'}", decoder=None).tokens(toy.pictures(1))
    assert not torch.equal(merged, toy.build([], decoder=None).tokens(toy.pictures(1)))
    words = ("--control", "--set", "steps=1", "--seed", 3, "--limit", 9)
    assert tove("merge", run, "--out", tmp_path / "control", *words).code == 0
    # Merged and control differ in nothing else that their folders hold.
    told = [read_config(Merging, tmp_path / name / "merging.yaml") for name in ("merged", "control")]
    assert [(one.merge.control, one.merge.steps, one.seed, one.limit, one.samples) for one in told] == [
        (False, 2, 0, None, 12),
        (True, 1, 3, 9, 9),
    ]
    assert told[0].merge.batch_size == 4 and told[1].merge.learning_rate == 3e-4 and told[0].run == run


def test_merge_names_its_own_keys(tove: Tove, run: Path, tmp_path: Path) -> None:
    refused = tove("merge", run, "--out", tmp_path / "merged", "--set", "training.steps=50").error
    assert "give --set steps=50" in refused
    assert "there is no such key; did you mean 'steps'" in tove("merge", run, "--out", "x", "--set", "stepz=50").error
    assert "training.steps" not in " ".join(tove("merge", "--help").out.split())


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("training.stepz=5", "training.stepz: there is no such key; did you mean 'steps'?"),
        ("training.steps=0", "training.steps"),
        ("training", "key.subkey=value"),
        ("model.experts=toy-fine", "model.experts: wanted a list, such as [toy-fine] (got 'toy-fine')"),
        ("model.experts=[toy-fin]", "did you mean toy-fine"),
        ("model.clip.name=local-dir:/nowhere", "/nowhere"),
        ("model.decoder.name=/nowhere/lm", "/nowhere/lm"),
        ("model.decoder=null", "needs a decoder"),
        ("model.fusion.kind=clip-mlp", "uses no experts"),
        ("data.path=/nowhere.jsonl", "/nowhere.jsonl"),
        ("data.path=null", "data.path"),
        ("data.reader=jsonll", "did you mean 'jsonl'"),
        ("training.learning_rate=.inf", "the loss is nan at step"),
        ("seed=99999999999999999999", "seed: it should be less than or equal to 4294967295"),
        ("seed=-1", "seed: it should be greater than or equal to 0"),
        ("model.experts=[{name: toy-fine, device: meta}]", "expert 'toy-fine': device 'meta' cannot be used"),
    ],
)
def test_a_run_that_cannot_start_says_why_in_one_line(
    tove: Tove, write: Callable[..., Path], override: str, wanted: str, tmp_path: Path
) -> None:
    assert wanted in tove("train", write(), "--quiet", "--set", override).error
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_the_largest_seed_trains_and_a_device_without_values_does_not(
    tove: Tove, write: Callable[..., Path], tmp_path: Path
) -> None:
    done = tove("train", write(), "--quiet", "--device", "meta")
    assert "the model's device 'meta' cannot be used: tensors there have no values" in done.error
    assert tove("train", write(seed=2**32 - 1), "--quiet", "--set", "training.steps=1").code == 0


def test_data_that_cannot_be_used_are_named(tove: Tove, write: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    for text, wanted in [
        ("", "data.jsonl"),
        ("{}\n", "line 1"),
        ('{"image": "gone.png", "text": "x"}\n', "gone.png"),
        ('{"image": "data.jsonl", "text": "x"}\n', "data.jsonl is not an image"),
        ('{"image": "data.jsonl"}\n', "no target text"),
    ]:
        data.write_text(text)
        assert wanted in tove("train", write(), "--quiet", "--set", f"data.path={data}").error


def test_commands_that_cannot_run_say_why_in_one_line(tove: Tove, run: Path, toy: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "letter.txt").write_text("dear")
    image, none, there = toy.pictures(1)[0], tmp_path / "none", tmp_path / "there"
    for words, wanted in [
        (("train", none), "no configuration file"),
        (("train", there, "--quiet"), str(there)),
        (("train", none, "--resume"), "no run to resume"),
        (("train", run, "--resume", "--set", "training.steps=3"), "exclude each other"),
        (("train", run, "--resume"), "is finished"),
        (("train", none, "--rdzv-endpoint", "nohost:1"), "--rdzv-endpoint nohost:1 is for several machines"),
        (("train", none, "--node-rank", 0), "--node-rank 0 is for several machines"),
        (("caption", run, image, "--device", "meta"), "the model's device 'meta'"),
        (("caption", run, none), str(none)),
        (("caption", run, tmp_path / "broken.png"), "broken.png"),
        (("caption", none, image), "there is no folder"),
        (("answer", there, image, "--question", "is it?"), "not a tove checkpoint"),
        (("evaluate", none, "--data", toy.data), "there is no folder"),
        (("evaluate", run, "--data", none), f"{none} does not exist; set --data to the jsonl data set"),
        (("evaluate", run, "--predictions", none / "said.jsonl"), "said.jsonl"),
        (("contributions", none), "there is no folder"),
        (("contributions", run, "--rule", "zer"), "zero or renormalise"),
        (("detach", run, "toy-none", "--out", none), "toy-none"),
        (("detach", run, "toy-fine", "--out", there), "exists already; give another folder"),
        (("detach", run, "toy-fine", "--out", none, "--rule", "zer"), "zero or renormalise"),
        (("merge", run, "--out", there), "exists already; give another folder"),
        (
            ("demo", "--out", there),
            "exists already; give another folder, or --overwrite where an earlier demo is in it",
        ),
        (("merge", run, "--out", none, "--set", "stepz=1"), "did you mean 'steps'"),
        (("merge", none, "--out", tmp_path / "other"), "there is no folder"),
    ]:
        assert wanted in tove(*words).error, words
    assert not none.exists() and [p.name for p in there.iterdir()] == ["letter.txt"]


def test_a_folder_that_cannot_be_written_is_one_line(tove: Tove, run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in (("detach", run, "toy-fine"), ("merge", run, "--set", "steps=1")):
        assert "cannot be written" in tove(*command, "--out", tmp_path / "file" / "below").error


def test_several_images_are_asked_about_together(tove: Tove, run: Path, toy: Any) -> None:
    first, second = (str(path) for path in toy.pictures(2))
    apart = tove("answer", run, first, second, "--question", "is it black?")
    assert [line.partition(": ")[0] for line in apart.out.splitlines()] == [first, second]
    model = ToveModel.from_pretrained(run / "checkpoint")
    for question, flags in (("<image> or <image>?", []), ("is it black?", ["--together"])):
        done = tove("answer", run, first, second, "--question", question, *flags)
        assert done.out.splitlines() == [f"{first} {second}: {model.answer([[first, second]], question)[0]}"]
    wrong = tove("answer", run, first, "--question", "<image> or <image>?")
    assert wrong.code == 1 and "holds <image> 2 times for 1 image" in wrong.error


def test_a_run_whose_data_moved_is_measured_and_merged_on_those_that_are_named(
    tove: Tove, write: Callable[..., Path], toy: Any, tmp_path: Path
) -> None:
    few, pictures = tmp_path / "few.jsonl", toy.data.parent
    few.write_text("".join(f"{line}\n" for line in toy.data.read_text().splitlines()[:4]))
    short = ("--set", f"validation.path={few}", "--set", f"validation.images={pictures}", "--set", "training.steps=1")
    assert tove("train", write(), "--quiet", *short, "--set", "model.experts=[toy-whole]").code == 0
    few.rename(moved := tmp_path / "moved.jsonl")
    config, run = tmp_path / "run" / "config.yaml", tmp_path / "run"
    told = tove("contributions", run).error
    assert f"few.jsonl does not exist; set validation.path in {config}, or --data, to the jsonl data set" in told
    assert "toy-whole" in tove("contributions", run, "--data", moved, "--images", pictures).out
    config.write_text(config.read_text().replace(str(toy.data), str(tmp_path / "gone.jsonl")))
    words = ("merge", run, "--out", tmp_path / "merged", "--set", "steps=1", "--set", "batch_size=2")
    assert f"gone.jsonl does not exist; set data.path in {config}, or --data" in tove(*words).error
    assert tove(*words, "--data", moved, "--images", pictures).code == 0
    assert read_config(RunConfig, tmp_path / "merged" / "config.yaml").data.path == moved


def test_images_beside_an_unreadable_one_are_answered_about(tove: Tove, run: Path, toy: Any, tmp_path: Path) -> None:
    first, second = toy.pictures(2)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for words in (("caption",), ("answer", "--question", "is it black?")):
        done = tove(words[0], run, first, tmp_path / "broken.png", second, first, *words[1:])
        assert [line.partition(": ")[0] for line in done.out.splitlines()] == [str(first), str(second), str(first)]
        assert "1 of 4 images cannot be read (first: " in done.error and "broken.png" in done.error
    together = tove("answer", run, first, tmp_path / "broken.png", "--question", "is it?", "--together")
    assert together.out == "" and "broken.png" in together.error
