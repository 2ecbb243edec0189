"""The page of the recipes shows what the commands print, as far as that is the same everywhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from tove_core.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes" / "README.md"
SHOWN = re.compile(r"```console\n\$ (tove plan [^\n]*)\n```\n\n```text\n(.*?)```", re.DOTALL)


def shown() -> dict[str, tuple[str, str]]:
    """Return by recipe the command of the page and what it shows."""
    pairs = SHOWN.findall(PAGE.read_text(encoding="utf-8"))
    return {Path(shlex.split(command)[2]).stem: (command, text) for command, text in pairs}


def test_every_recipe_but_the_one_of_a_tutorial_is_shown_with_its_plan() -> None:
    recipes = {path.stem for path in (ROOT / "docs" / "recipes").glob("*.yaml")}
    assert set(shown()) == recipes - {"world-hub"}


def test_hours_are_shown_only_where_they_were_measured_and_as_an_estimate() -> None:
    for command, text in shown().values():
        assert ("an estimate" in text and "timed on" in text) == ("--measure" in command)
        assert "--tflops" not in command


@pytest.mark.shared_data
def test_the_plan_of_easy_vqa_is_the_one_that_is_shown(shared_data, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "easy-vqa").symlink_to(shared_data("easy-vqa"))
    monkeypatch.chdir(tmp_path)
    command, text = shown()["easy-vqa"]
    words = [word for word in shlex.split(command)[1:] if word != "--measure"]
    words[1] = str(ROOT / words[1])
    capsys.readouterr()
    typer.main.get_command(app)(words, standalone_mode=False)
    printed = capsys.readouterr().out.splitlines()
    untimed = text.partition("\nhours, an estimate")[0].splitlines()
    assert len(untimed) > 20 and printed[: len(untimed)] == untimed
