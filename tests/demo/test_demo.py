"""The demo and the bench run end to end; what they would learn takes longer than a test may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.contribution import Contribution
from tove_core.data.readers import read
from tove_core.data.sample import Sample, distinct_images
from tove_core.demo.hooks import EXPERTS
from tove_core.demo.results import SeedResult, write_report
from tove_core.demo.run import demo
from tove_core.demo.table import render
from tove_core.demo.world import Size, World
from tove_core.errors import DataError
from tove_core.evaluation.evaluate import Scores
from tove_core.model import CLIP, ToveModel
from tove_core.training.run_data import run_data

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
    wanted = ("majority answer", "CLIP only", "hub of experts", "caption CIDEr", "control", "experts help")
    for line in (*wanted, *EXPERTS):
        assert line in report
    assert {one.expert for one in result.contributions} == set(EXPERTS)
    assert result.contributions == sorted(result.contributions, key=lambda one: -one.loss)
    assert len(json.loads((tmp_path / "demo" / "report.json").read_text())) == 1
    assert (tmp_path / "demo" / "gates.png").read_bytes().startswith(b"\x89PNG")
    model = ToveModel.from_pretrained(tmp_path / "demo" / "checkpoint")
    assert model.trained and model.active_experts == list(EXPERTS)
    for part, scenes in ((run_data(tmp_path / "demo", None, train=True), 60), (run_data(tmp_path / "demo", None), 20)):
        samples = read(part)
        assert len(distinct_images(samples)[0]) == scenes and {one.id.split("-")[0] for one in samples} == {part.split}
    assert read(run_data(tmp_path / "demo" / "merged", 3))[0].id == "validation-0-0"
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'demo' / 'merged'}")
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.tower.parameters())


def scores() -> Scores:
    return Scores(0.5, {"shape": (0.5, 2)}, {"shape": 0.5}, {}, {"a": "red"})


def test_overwrite_replaces_an_earlier_demo_and_nothing_else(
    tove: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Path] = []
    monkeypatch.setattr("tove_core.demo.run.demo", lambda out, **_: ran.append(out))
    earlier, other = tmp_path / "demo", tmp_path / "thesis"
    for folder in (earlier, other):
        folder.mkdir()
        (folder / "chapter.txt").write_text("years of work")
    write_report(earlier, [SeedResult(0, scores(), scores(), [], scores(), scores())])
    for content in ("{}", "[]", "[1]", '[{"seed": 0}]', "no JSON", ""):
        (other / "report.json").write_text(content)
        assert "exists already" in tove("demo", "--overwrite", "--out", other).error
        assert (other / "chapter.txt").read_text() == "years of work" and not ran
    assert "exists already" in tove("demo", "--out", earlier).error
    assert tove("demo", "--overwrite", "--out", earlier).code == 0
    assert ran == [earlier] and not earlier.exists()


@pytest.mark.parametrize("option", [("--seeds", 2), ("--small",)])
def test_rebuilding_weights_refuses_options_of_the_demo(tove: Any, tmp_path: Path, option: tuple[Any, ...]) -> None:
    done = tove("demo", "--rebuild-weights", "--out", tmp_path / "new", *option)
    assert f"{option[0]} is for the demo itself" in done.error and not (tmp_path / "new").exists()


def test_the_table_names_the_expert_that_each_seed_went_without() -> None:
    def ranked(seed: int, *experts: str) -> SeedResult:
        scores = Scores(0.5, {"": (0.5, 2)}, {"": 0.5}, {"CIDEr-D": 1.0}, {"q": "no"})
        found = [Contribution(name, 1.0 - n, None, None) for n, name in enumerate(experts)]
        return SeedResult(seed, scores, scores, found, scores, scores)

    asked = [Sample("q", torch.zeros(3, 4, 4, dtype=torch.uint8), "?", ("no",))]
    results = [ranked(0, "depth", "edges", "blank"), ranked(1, "depth", "blank", "edges")]
    text = render(results, TINY, 1.0, asked)
    assert "least contributing expert detached (each seed's own: blank, edges)" in text
    assert "most contributing expert detached (depth)" in text
    assert "least contributing expert detached (blank)" in render(results[:1], TINY, 1.0, asked)


def test_a_model_with_fewer_experts_gets_the_same_features_from_the_shared_table(world: World) -> None:
    single = world.model("gate", EXPERTS[2:3])
    shared = world.examples(single, world.validation).features([0, 5])
    own = single.encode([world.validation[i].load() for i in (0, 5)])
    assert torch.allclose(shared[EXPERTS[2]], own[EXPERTS[2]], atol=2e-2, rtol=2e-3)  # the table keeps float16
    assert torch.allclose(shared[CLIP], own[CLIP], atol=2e-2, rtol=2e-3)


def test_the_world_is_rendered_so_a_path_is_refused() -> None:
    from tove_core.config import DataConfig
    from tove_core.data.readers import read

    with pytest.raises(DataError, match="rendered, not read"):
        read(DataConfig(reader="world", path=Path("somewhere")))
    samples = read(DataConfig(reader="world", split="validation", limit=13))
    assert len(samples) == 13 and samples[-1].prompt is None and len(samples[-1].targets) == 2
