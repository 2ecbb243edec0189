from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from tove_core.cli.examples import EXAMPLES
from tove_core.cli.main import app


def leaf(parser: Callable[..., Any], words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words begin with, and what follows its name."""
    command = parser(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_line_its_command_takes(name: str, parser: Callable[..., Any], tove: Any) -> None:
    for line in EXAMPLES[name]:
        words = shlex.split(line)
        assert words[: 1 + len(name.split())] == ["tove", *name.split()], "it is an example of this command"
        command, rest = leaf(parser, words[1:])
        command.make_context(name, list(rest))  # unknown options, missing ones and arguments are errors
    shown = " ".join(tove(*name.split(), "--help").out.split())
    assert all(" ".join(line.split()) in shown for line in EXAMPLES[name])


def test_every_command_of_the_life_cycle_has_an_example() -> None:
    assert {"plan", "train", "evaluate", "contributions", "detach", "select", "merge", "export"} <= EXAMPLES.keys()
