from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import ToveModel
from tove_core.selection import SelectionReport
from tove_core.settings import read_config

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FEW = ("--steps", 3, "--batch-size", 5)


@pytest.fixture(scope="module")
def selected(toy: Any, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `tove select` wrote, whose selector then has a price at which it chooses some experts."""
    from tove_core.cli.lifecycle import select
    from tove_core.model import CLIP

    folder = tmp_path_factory.mktemp("select") / "selected"
    select(str(run), folder, 0.5, steps=3, batch_size=5)
    model = ToveModel.from_pretrained(folder)
    with torch.no_grad():
        values = model.selector(model.encode(toy.pictures(12), only=[CLIP])[CLIP]).values  # type: ignore[misc]
        for k, row in enumerate(model.selector.rows.values()):  # type: ignore[union-attr]
            row.bias.add_(1 - values[:, k].median())  # type: ignore[union-attr,operator]
    chosen = model.selector.selection.model_copy(update={"price": 3.0})  # type: ignore[union-attr]
    model.selector.selection = chosen  # type: ignore[union-attr]
    model.save_pretrained(folder / "checkpoint")
    return folder


def test_select_writes_a_run_that_selects_and_says_how_it_does(tove: Tove, run: Path, tmp_path: Path) -> None:
    words = ("select", run, "--budget", 0.5, *FEW, "--seed", 1, "--cost", "toy-fine=2", "--cost", "toy-wide=1")
    done = tove(*words, "--cost", "toy-whole=1", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    report = read_config(SelectionReport, tmp_path / "out" / "selection.yaml")
    assert report.run == run and report.seed == 1 and report.steps == 3
    assert str(report) in done.out and done.out.endswith(f"wrote {tmp_path / 'out'}, which selects experts\n")
    assert report.selection.costs == {"toy-fine": 0.5, "toy-wide": 0.25, "toy-whole": 0.25}
    model = ToveModel.from_pretrained(tmp_path / "out")
    assert model.selects and model.selector is not None and model.selector.selection == report.selection
    full = ToveModel.from_pretrained(run)
    model.selecting = False
    assert torch.equal(model.tokens(full_pictures(run)), full.tokens(full_pictures(run)))


def full_pictures(run: Path) -> list[Any]:
    from tove_core.training.run_data import run_samples

    return [one.image for one in run_samples(run, 2)]


def test_an_evaluation_is_of_what_is_deployed_and_says_so(
    tove: Tove, selected: Path, run: Path, tmp_path: Path
) -> None:
    done = tove("evaluate", selected, "--out", tmp_path / "scored", "--limit", 8, "--task", "exact-match")
    assert done.code == 0, done.err
    line = "selection: experts are chosen image by image, for a mean cost of 0.5 of running all of them"
    assert line in done.out.splitlines()
    manifest = json.loads((tmp_path / "scored" / "manifest.json").read_text())
    assert manifest["model"]["selection"]["budget"] == 0.5
    assert line in tove("evaluate", selected, "--limit", 8).out.splitlines()
    plain = tove("evaluate", run, "--out", tmp_path / "plain", "--limit", 8, "--task", "exact-match")
    assert plain.code == 0 and "selection" not in plain.out
    assert "selection" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())["model"]


def test_what_selects_can_be_used_like_any_run(tove: Tove, selected: Path, toy: Any, tmp_path: Path) -> None:
    model = ToveModel.from_pretrained(selected)
    done = tove("caption", selected, *toy.pictures(2))
    said = model.caption(toy.pictures(2))
    assert done.out.splitlines() == [f"{p}: {s}" for p, s in zip(toy.pictures(2), said, strict=True)]
    assert tove("detach", selected, "toy-wide", "--out", tmp_path / "less").code == 0
    less = ToveModel.from_pretrained(tmp_path / "less")
    assert less.selector is not None and less.selector.experts == ["toy-fine", "toy-whole"]
    done = tove("merge", selected, "--out", tmp_path / "merged", "--set", "steps=1", "--set", "batch_size=4")
    assert done.code == 0 and "with every expert on every image, though the model selects" in done.err
    assert ToveModel.from_pretrained(tmp_path / "merged").selector is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget", 1), "--budget is 1; give a share"),
        (("--budget", 0.5, "--cost", "toy-fine"), "--cost toy-fine cannot be used"),
        (("--budget", 0.5, "--cost", "toy-fine=x"), "--cost toy-fine=x cannot be used"),
        (("--budget", 0.5, "--cost", "toy-fine=1", "--cost", "toy-fine=2"), "give each expert once"),
        (("--budget", 0.5, "--cost", "toy-fine=1"), "give one for each of these"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    tove: Tove, run: Path, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    assert said in tove("select", run, *words, "--out", tmp_path / "out").error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_written_over(tove: Tove, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    done = tove("select", run, "--budget", 0.5, *FEW, "--out", tmp_path)
    assert str(tmp_path) in done.error and [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
