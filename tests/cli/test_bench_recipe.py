"""The laptop recipes, cut short, by the one command that their page names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
SHORT = ("training.steps=2", "training.batch_size=6", "training.save_every=1", "data.limit=30")


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["easy-vqa", "nlvr"])
def test_a_laptop_recipe_is_trained_with_its_control_scored_and_compared(
    tove: Callable[..., Any],
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    name: str,
) -> None:
    data = shared_data(name)
    held = {"reader": name, "path": data, "split": "test", "limit": 20}
    changes = [*SHORT, f"data.path={data}", f"output={tmp_path / 'run'}"]
    changes += [f"validation.{key}={value}" for key, value in held.items()]
    words = [word for change in changes for word in ("--set", change)]
    done = tove("bench", "recipe", RECIPES / f"{name}.yaml", *words, "--quiet")
    assert done.code == 0, done.err
    assert "A: the hub of experts, B: CLIP only" in done.out and done.out.count("\nmajority answer ") == 2
    assert done.out.splitlines()[-1].startswith("exact match ")
    for run in ("hub", "clip-only"):
        folder = tmp_path / "run" / run
        assert (folder / "checkpoint" / "tove.json").is_file()
        assert (folder / "predictions" / "scores.json").is_file()


@pytest.mark.parametrize(
    ("seeds", "said"), [("0,x", "is not a comma list"), ("-1,0", "whole numbers from 0"), ("4", "are no spread")]
)
def test_seeds_that_are_none_are_refused(tove: Callable[..., Any], tmp_path: Path, seeds: str, said: str) -> None:
    output = f"output={tmp_path / 'run'}"
    assert said in tove("bench", "recipe", RECIPES / "easy-vqa.yaml", "--set", output, "--seeds", seeds).error
    assert not (tmp_path / "run").exists()
