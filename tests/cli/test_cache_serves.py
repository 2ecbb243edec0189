from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from tove_core import ToveModel

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FEW = {"steps": 4, "batch_size": 5, "warmup": 1, "log_every": 1, "learning_rate": 0.01}


def settings(toy: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    model = {"clip": {"name": toy.clip}, "experts": ["toy-fine", "toy-wide"], "fusion": {"gate": {"hidden": 6}}}
    model["decoder"] = {"name": toy.decoder, "max_new_tokens": 4, "train": "all"}
    whole = {"model": model, "data": {"path": str(toy.data)}, "training": FEW | {"cache": str(folder / "cache")}}
    return whole | {"validation": {"path": str(folder / "held.jsonl")}, "output": str(folder / "run")} | changes


_FIGURE = r"[+-]?\d+\.\d+"


def figures(table: str) -> list[float]:
    return [float(one) for one in re.findall(_FIGURE, table)]


@pytest.fixture(scope="module")
def folder(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained from a float32 cache in `cache`; its validation data are two images nobody has trained on."""
    from tove_core.cli.cache_build import build
    from tove_core.config import RunConfig
    from tove_core.training import train

    folder = tmp_path_factory.mktemp("serves")
    lines = [json.loads(line) for line in toy.data.read_text().splitlines()[1:3]]
    for number, line in enumerate(lines):
        line["image"] = str(folder / f"held-{number}.png")
        Image.effect_noise((41 + number, 30), 90).convert("RGB").save(line["image"])
    (folder / "held.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "run.yaml").write_text(yaml.safe_dump(settings(toy, folder)))
    build(folder / "run.yaml", folder / "cache", dtype=["float32"], quiet=True)
    train(RunConfig.model_validate(settings(toy, folder)), quiet=True)
    return folder


@pytest.fixture
def no_expert_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give a function after whose call CLIP and the experts cannot run."""
    from tove_core.model import ToveModel

    def forbid() -> None:
        def encode(*_: Any, **__: Any) -> None:
            pytest.fail("CLIP and the experts ran")

        monkeypatch.setattr(ToveModel, "encode", encode)

    return forbid


def copied(folder: Path, to: Path, cache: Any) -> Path:
    """Return a copy of the run that was trained from another cache, as its configuration says."""
    shutil.copytree(folder / "run", to)
    text = yaml.safe_load((to / "config.yaml").read_text())
    text["training"]["cache"] = cache
    (to / "config.yaml").write_text(yaml.safe_dump(text))
    return to


def test_commands_on_a_run_read_the_cache_it_was_trained_from_and_say_so(
    tove: Tove, folder: Path, toy: Any, no_expert_runs: Callable[[], None], tmp_path: Path
) -> None:
    without = copied(folder, tmp_path / "without", True)
    on_training_data = ("--data", toy.data)
    wanted = tove("evaluate", without, *on_training_data)
    assert wanted.code == 0 and "features are read" not in wanted.err
    no_expert_runs()
    told = f"features are read from {folder / 'cache'} (float32)"
    done = tove("evaluate", folder / "run", *on_training_data)
    assert done.code == 0 and told in done.err and done.out == wanted.out
    asked = questions_only(toy, tmp_path / "asked.jsonl")
    scored = tove("evaluate", folder / "run", "--data", asked, "--task", "exact-match")
    assert scored.code == 0 and told in scored.err, scored.err
    named = tove("evaluate", without, *on_training_data, "--cache", folder / "cache")
    assert named.out == wanted.out and told in named.err
    merged = tove("merge", folder / "run", "--out", tmp_path / "merged", "--set", "steps=2", "--set", "batch_size=3")
    assert merged.code == 0 and told in merged.err


def questions_only(toy: Any, path: Path) -> Path:
    lines = [json.loads(line) for line in toy.data.read_text().splitlines()]
    asked = [line | {"image": str(toy.data.parent / line["image"])} for line in lines if "question" in line]
    path.write_text("\n".join(map(json.dumps, asked)))
    return path


def test_predictions_into_a_folder_are_those_without_a_cache(
    tove: Tove, folder: Path, toy: Any, no_expert_runs: Callable[[], None], tmp_path: Path, monkeypatch: Any
) -> None:
    from tove_core.evaluation import collect

    data, without = questions_only(toy, tmp_path / "asked.jsonl"), copied(folder, tmp_path / "without", True)
    monkeypatch.setattr(collect.collect, "__kwdefaults__", collect.collect.__kwdefaults__ | {"block": 3})
    plain = tove("evaluate", without, "--data", data, "--out", tmp_path / "plain", "--batch-size", 2)
    assert plain.code == 0, plain.err
    monkeypatch.setattr("tove_core.evaluation.run.measure_cost", lambda *_, **__: _Cost())
    no_expert_runs()
    cached = tove("evaluate", folder / "run", "--data", data, "--out", tmp_path / "cached", "--batch-size", 2)
    assert cached.code == 0 and "features are read from" in cached.err, cached.err
    said = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("plain", "cached")]
    assert said[0] == said[1] and len(said[0].splitlines()) == 8


class _Cost:
    def plain(self) -> None:
        return None


def test_images_that_the_runs_own_cache_lacks_are_computed_and_a_named_cache_refused(
    tove: Tove, folder: Path, tmp_path: Path
) -> None:
    wanted = tove("contributions", copied(folder, tmp_path / "without", True))
    own = tove("contributions", folder / "run")
    assert own.code == 0 and own.out == wanted.out
    note = next(line for line in own.err.splitlines() if line.startswith("note: "))
    assert "does not serve, so features are computed: feature 'clip' of 2 of 2 images is not in" in note
    named = tove("contributions", folder / "run", "--cache", folder / "cache")
    assert "feature 'clip' of 2 of 2 images is not in" in named.error
    assert "holds no feature cache" in tove("contributions", folder / "run", "--cache", tmp_path / "none").error


def cure(text: str) -> list[str]:
    """Return the words of the command that a message names, as one would type them."""
    (command,) = re.findall(r"run 'tove (cache build .*?)'", text)
    return shlex.split(command)


def test_the_command_that_a_refusal_names_computes_what_was_lacking(
    tove: Tove, folder: Path, toy: Any, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    run = copied(folder, tmp_path / "run", str(cache))
    grow = ("train", run, "--add", "toy-whole", "--quiet", "--out")
    refused = tove(*grow, tmp_path / "grown").error
    assert cure(refused) == ["cache", "build", str(run), "--add", "toy-whole", "--out", str(cache)]
    assert "toy-whole 12" in tove(*cure(refused), "--quiet").out
    grown = tove(*grow, tmp_path / "grown")
    assert grown.code == 0
    assert cure(grown.err) == ["cache", "build", str(tmp_path / "grown"), "--held-out", "--out", str(cache)]
    assert "toy-whole 2" in tove(*cure(grown.err), "--quiet").out
    held = tove("evaluate", tmp_path / "grown")
    assert held.code == 0 and f"features are read from {cache}" in held.err
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"image": str(tmp_path / "more.png"), "text": "a red square"}) + "\n")
    Image.new("RGB", (31, 20), "red").save(tmp_path / "more.png")
    evaluate = ("evaluate", run, "--data", more, "--cache", cache)
    other = cure(tove(*evaluate).error)
    assert other == ["cache", "build", str(run), "--set", f"data.path={more}", "--out", str(cache)]
    assert "computed clip 1" in tove(*other, "--quiet").out
    assert tove(*evaluate).code == 0
    assert cure(tove("contributions", run, "--cache", tmp_path / "none").error)[2:4] == [str(run), "--held-out"]


def test_held_out_images_are_built_with_the_statistics_of_training(
    tove: Tove, folder: Path, no_expert_runs: Callable[[], None], tmp_path: Path
) -> None:
    out, wanted = tmp_path / "held", tove("contributions", copied(folder, tmp_path / "without", True)).out
    # From the configuration the statistics are measured anew, from the run they are those of its checkpoint.
    first = tove("cache", "build", folder / "run.yaml", "--held-out", "--out", out, "--dtype", "float32", "--quiet")
    assert "computed clip 2, toy-fine 2, toy-wide 2" in first.out, first.err
    again = tove("cache", "build", folder / "run", "--held-out", "--out", out, "--dtype", "float32", "--quiet")
    assert "2 images were there already" in again.out, again.err
    assert "to compute: clip 12" in tove("cache", "build", folder / "run", "--out", out, "--estimate").out
    no_expert_runs()
    done = tove("contributions", folder / "run", "--cache", out)
    assert done.code == 0 and f"features are read from {out} (float32)" in done.err
    assert figures(done.out) == pytest.approx(figures(wanted), abs=2e-3)  # what is kept in memory is float16
    assert re.sub(_FIGURE, "", done.out) == re.sub(_FIGURE, "", wanted)
    assert tove("evaluate", folder / "run", "--cache", out).code == 0


def test_a_cache_made_with_more_experts_serves_after_detaching(
    tove: Tove, folder: Path, toy: Any, no_expert_runs: Callable[[], None], tmp_path: Path
) -> None:
    assert tove("detach", folder / "run", "toy-fine", "--out", tmp_path / "less").code == 0
    no_expert_runs()
    done = tove("evaluate", tmp_path / "less", "--data", toy.data)
    assert done.code == 0 and f"features are read from {folder / 'cache'}" in done.err
    trained_on = tove("contributions", tmp_path / "less", "--cache", folder / "cache")
    assert "feature 'clip' of 2 of 2 images" in trained_on.error


def test_another_model_is_refused_by_name_and_computed_by_default(tove: Tove, folder: Path, tmp_path: Path) -> None:
    merge = ("merge", folder / "run", "--out", tmp_path / "merged", "--set", "steps=1", "--set", "batch_size=3")
    assert tove(*merge).code == 0
    own = tove("evaluate", tmp_path / "merged")
    assert own.code == 0 and "holds feature 'clip' computed from something else: " in own.err
    named = tove("evaluate", tmp_path / "merged", "--cache", folder / "cache")
    assert "holds feature 'clip' computed from something else: " in named.error


def test_growth_reads_the_cache_after_the_new_expert_was_computed_alone(
    tove: Tove, folder: Path, no_expert_runs: Callable[[], None], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    run = copied(folder, tmp_path / "run", str(cache))
    in_memory = copied(folder, tmp_path / "memory", True)
    assert tove("train", in_memory, "--add", "toy-whole", "--out", tmp_path / "wanted", "--quiet").code == 0
    grow = ("train", run, "--add", "toy-whole", "--out", tmp_path / "grown")
    assert "'toy-whole' is not in" in tove(*grow, "--quiet").error
    build = ("cache", "build", run, "--add", "toy-whole", "--out", cache, "--dtype", "float32", "--quiet")
    assert "computed clip 0, toy-fine 0, toy-wide 0, toy-whole 12" in tove(*build).out
    assert "computed clip 2, toy-fine 2, toy-wide 2, toy-whole 2" in tove(*build, "--held-out").out
    done = tove(*grow)
    assert done.code == 0 and done.err.count(f"features are read from {cache} (float32)") == 2  # training, and the gain
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("wanted", "grown")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    scores = [json.loads((tmp_path / name / "growth.json").read_text())["scores"] for name in ("wanted", "grown")]
    assert scores[0]["loss"]["after"] == pytest.approx(scores[1]["loss"]["after"], rel=1e-3)
    models = [ToveModel.from_pretrained(tmp_path / name / "checkpoint") for name in ("wanted", "grown")]
    assert models[1].active_experts == ["toy-fine", "toy-wide", "toy-whole"]
    weights = [dict(model.named_parameters()) for model in models]
    worst = max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0])
    assert worst <= torch.tensor(1e-3)


def test_a_run_that_starts_from_another_finds_a_cache_of_its_own_statistics(
    tove: Tove, folder: Path, toy: Any, tmp_path: Path
) -> None:
    # The model is calibrated on what the first run saw, not on these data.
    given = settings(toy, folder, start=str(folder / "run"), output=str(tmp_path / "second"))
    given["data"] = {"path": str(folder / "held.jsonl")}
    given["training"] = FEW | {"cache": str(tmp_path / "cache"), "batch_size": 2}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(given))
    assert tove("cache", "build", tmp_path / "second.yaml", "--out", tmp_path / "cache", "--quiet").code == 0
    done = tove("train", tmp_path / "second.yaml", "--quiet")
    assert done.code == 0, done.err


def test_what_a_build_cannot_do_is_said_in_one_line(tove: Tove, folder: Path, toy: Any, tmp_path: Path) -> None:
    build = ("cache", "build", "--out", tmp_path / "c")
    for words, wanted in [
        ((folder / "run", "--set", "model.view=crop"), "does not reach the trained model"),
        ((folder / "run.yaml", "--add", "toy-whole"), "is no folder"),
        ((folder / "run", "--add", "toy-whole", "--set", "model.view=crop"), "would change the model"),
        ((folder / "run.yaml", "--held-out", "--set", "validation=null"), "names no validation data"),
        ((tmp_path, "--held-out"), "config.yaml"),
    ]:
        assert wanted in tove(*build, *words).error
    assert not (tmp_path / "c").exists()
