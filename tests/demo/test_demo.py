"""The demo and the bench run end to end; what they would learn takes longer than a test may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tove_core.demo import bench
from tove_core.demo.hooks import EXPERTS
from tove_core.demo.run import demo
from tove_core.demo.world import SMALL, Size, World
from tove_core.errors import ConfigError, DataError
from tove_core.fusion import fusion_parameters
from tove_core.model import CLIP, ToveModel

TINY = Size(train=60, validation=20, test=20, questions=3, steps=3, batch=8, merge_steps=2)


@pytest.fixture(scope="module")
def world() -> World:
    return World(TINY)


@pytest.mark.slow
def test_the_demo_writes_a_checkpoint_that_answers_a_merged_clip_pictures_and_the_table_it_prints(
    tmp_path: Path,
) -> None:
    import open_clip

    said: list[str] = []
    (result,) = demo(tmp_path / "demo", size=TINY, quiet=True, say=said.append)
    report = (tmp_path / "demo" / "report.md").read_text()
    assert report.strip() in "\n".join(said)
    for line in ("majority answer", "CLIP only", "hub of experts", "caption CIDEr", "control", *EXPERTS):
        assert line in report
    assert {one.expert for one in result.contributions} == set(EXPERTS)
    assert result.contributions == sorted(result.contributions, key=lambda one: -one.loss)
    assert len(json.loads((tmp_path / "demo" / "report.json").read_text())) == 1
    assert (tmp_path / "demo" / "gates.png").read_bytes().startswith(b"\x89PNG")
    model = ToveModel.from_pretrained(tmp_path / "demo" / "checkpoint")
    assert model.trained and model.active_experts == list(EXPERTS)
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'demo' / 'merged'}")
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.tower.parameters())


def test_all_fusions_of_the_world_train_the_same_number_of_parameters_within_one_hidden_unit(world: World) -> None:
    widths = [align.width for align in world.hub.align.values()]  # type: ignore[union-attr]
    budget = fusion_parameters(world.hub.config.fusion, world.hub.tower.width, widths)  # type: ignore[arg-type]
    for name, (kind, experts) in bench.VARIANTS.items():
        fusion = world.model(kind, experts, budget).fusion
        assert fusion is not None
        trained = sum(p.numel() for p in fusion.parameters())
        per_unit = sum(p.numel() for p in fusion.parameters()) / fusion.hidden
        assert abs(trained - budget) <= per_unit, name


def test_a_model_with_fewer_experts_gets_the_same_features_from_the_shared_table(world: World) -> None:
    single = world.model("gate", EXPERTS[2:3])
    shared = world.examples(single, world.validation).features([0, 5])
    own = single.encode([world.validation[i].load() for i in (0, 5)])
    assert torch.allclose(shared[EXPERTS[2]], own[EXPERTS[2]], atol=2e-2, rtol=2e-3)  # the table keeps float16
    assert torch.allclose(shared[CLIP], own[CLIP], atol=2e-2, rtol=2e-3)


@pytest.mark.slow
def test_a_bench_goes_on_where_it_stopped_and_refuses_results_of_other_settings(tmp_path: Path) -> None:
    table = bench.run(tmp_path, [0], ["clip-mlp", "gate"], size=TINY, quiet=True)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert sorted(kept) == ["clip-mlp-0.json", "gate-0.json"]
    assert table.count("\n| ") == 3 and "| gate | 1 |" in table
    assert bench.run(tmp_path, [0], ["clip-mlp", "gate"], size=TINY, quiet=True) == table
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == kept
    with pytest.raises(ConfigError, match="other settings"):
        bench.run(tmp_path, [0], ["gate"], size=SMALL, quiet=True)


def test_an_unknown_variant_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no variant 'moe'; choose from clip-mlp"):
        bench.run(tmp_path, [0], ["moe"])


def test_the_world_is_rendered_so_a_path_is_refused() -> None:
    from tove_core.config import DataConfig
    from tove_core.data.readers import read

    with pytest.raises(DataError, match="rendered, not read"):
        read(DataConfig(reader="world", path=Path("somewhere")))
    samples = read(DataConfig(reader="world", split="validation", limit=13))
    assert len(samples) == 13 and samples[-1].prompt is None and len(samples[-1].targets) == 2
