"""A recipe and its control in one call: equal size and steps, resumable, and refused where it could say nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tove_core.config import DataConfig, RunConfig
from tove_core.demo.reader import samples
from tove_core.demo.splits import TEST, TRAIN
from tove_core.demo.world import model_config
from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.against_clip import run_recipe, run_seeds
from tove_core.evaluation.result import Evaluation
from tove_core.model import ToveModel
from tove_core.settings import read_config
from tove_core.training.run import CONFIG


def world_config(output: Path, **changes) -> RunConfig:
    model = model_config("gate", ("world-depth-day", "world-centre"))
    given = {
        "model": model.model_dump(mode="json"),
        "data": {"reader": "jsonl", "path": str(output.parent / "train.jsonl")},
        "validation": {"reader": "jsonl", "path": str(output.parent / "test.jsonl")},
        "training": {"steps": 3, "batch_size": 4, "save_every": 1},
        "output": str(output),
    }
    return RunConfig.model_validate(given | changes)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write questions about scenes, as anybody's data set is written."""
    for name, part in (("train", TRAIN), ("test", TEST)):
        lines = []
        for i, sample in enumerate(samples(part, 7, questions=3, captions=False)):
            image = f"{name}-{i // 3}.png"
            Image.fromarray(sample.load().permute(1, 2, 0).numpy()).save(tmp_path / image)
            row = {"id": sample.id, "image": image, "question": sample.prompt, "answer": sample.targets[0]}
            lines.append(json.dumps(row))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def add_a_caption(path: Path) -> None:
    """Let a file of questions hold another task's sample too."""
    rows = path.read_text()
    row = {"id": "told", "image": json.loads(rows.splitlines()[0])["image"], "text": "a scene"}
    path.write_text(f"{rows}{json.dumps(row)}\n")


@pytest.mark.slow
def test_a_recipe_and_its_control_train_as_many_parameters_and_are_compared_on_the_same_samples(written: Path):
    add_a_caption(written / "test.jsonl")
    config = world_config(written / "out")
    evaluations: list[Evaluation] = []
    found = run_recipe(config, "exact-match", quiet=True, tell=evaluations.append)
    hub, alone = (ToveModel.from_pretrained(written / "out" / name / "checkpoint") for name in ("hub", "clip-only"))
    sizes = [sum(p.numel() for p in model.fusion.parameters()) for model in (hub, alone)]
    assert alone.active_experts == [] and abs(sizes[0] - sizes[1]) <= sizes[1] / alone.fusion.hidden
    control = read_config(RunConfig, written / "out" / "clip-only" / CONFIG)
    assert control.training == config.training and control.data == config.data
    assert found.samples == 21 and found.differences[0].name == "exact match"
    assert [one.folder.parent.name for one in evaluations if one.folder] == ["hub", "clip-only"]
    assert all("majority answer" in str(one) for one in evaluations)
    assert [dict(one.left_out) for one in evaluations] == [{"of another task": 1}] * 2

    kept = {p: p.stat().st_mtime_ns for p in (written / "out").rglob("checkpoint/*")}
    again = run_recipe(config, "exact-match", quiet=True)
    assert again == found and {p: p.stat().st_mtime_ns for p in kept} == kept, "finished runs are not trained again"
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        run_recipe(config.model_copy(update={"seed": 5}), "exact-match", quiet=True)


@pytest.mark.slow
def test_a_recipe_that_was_stopped_goes_on_from_the_states_it_saved(written: Path):
    config = world_config(written / "out")
    run_recipe(config, quiet=True)
    whole = (written / "out" / "clip-only" / "checkpoint" / "model.safetensors").read_bytes()
    shutil.rmtree(written / "out" / "clip-only" / "checkpoint")  # stopped after its last state, before it was written
    shutil.rmtree(written / "out" / "clip-only" / "predictions")
    run_recipe(config, quiet=True)
    assert (written / "out" / "clip-only" / "checkpoint" / "model.safetensors").read_bytes() == whole


def test_a_recipe_without_held_out_data_or_experts_is_refused_before_training(tmp_path: Path):
    config = world_config(tmp_path / "out", validation=None)
    with pytest.raises(ConfigError, match="nothing to score on: give validation"):
        run_recipe(config, quiet=True)
    bare = config.model_copy(
        update={"validation": DataConfig(reader="world", limit=5), "model": model_config("clip-mlp")}
    )
    with pytest.raises(ConfigError, match="no experts, so there is nothing to compare"):
        run_recipe(bare, quiet=True)
    with pytest.raises(DataError, match="missing"):
        run_recipe(config.model_copy(update={"validation": DataConfig(path=tmp_path / "missing.jsonl")}), quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "goes_on", [{"start": "runs/before"}, {"growth": {"source": "runs/before", "experts": [{"name": "edges"}]}}]
)
def test_a_recipe_that_goes_on_from_a_trained_run_is_refused_before_training(tmp_path: Path, goes_on: dict[str, Any]):
    with pytest.raises(ConfigError, match=rf"goes on from runs/before \({next(iter(goes_on))}\).*trained afresh"):
        run_recipe(world_config(tmp_path / "out", **goes_on), quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_seeds_have_runs_of_their_own_and_are_brought_together(written: Path):
    config = world_config(written / "out")
    found = run_seeds(config, [3, 1], quiet=True)
    assert found.seeds == (3, 1) and found.samples == 21 and len(found.differences[0].by_seed) == 2
    for seed, difference in zip(found.seeds, found.differences[0].by_seed, strict=True):
        own = read_config(RunConfig, written / "out" / f"seed-{seed}" / "hub" / CONFIG)
        assert own.seed == seed and own.training == config.training
        alone = run_recipe(config.model_copy(update={"seed": seed, "output": own.output.parent}), quiet=True)
        assert alone.differences[0].difference == difference


@pytest.mark.parametrize("seeds", [[], [0], [1, 2, 1]])
def test_seeds_that_are_no_spread_are_refused_before_training(tmp_path: Path, seeds: list[int]):
    with pytest.raises(ConfigError, match="are no spread; give two or more, each once"):
        run_seeds(world_config(tmp_path / "out"), seeds, quiet=True)
    assert not (tmp_path / "out").exists()
