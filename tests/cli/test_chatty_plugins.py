"""A plugin that prints wherever it runs: what a command was asked for is still all that is on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tove_core import plugins

Tove = Callable[..., Any]

CODE = """
import torch
from tove_core import ExpertSpec, Grid, Input, Variant, hookimpl
print("hello from the module")

@hookimpl
def tove_experts():
    print("hello from the hook")
    return [ExpertSpec(api=1, name="chatty", summary="Talks.", factory="chatty_plugin:build",
                       convert="chatty_plugin:no", family="chatty_plugin:member",
                       input=Input(size=(16, 24)), outputs={"map": Grid(channels=3, stride=8, norm="fixed")})]

def member(text):
    print("hello from the family")
    return Variant(summary=text)

def no(state):
    print("hello from the conversion")
    return dict(state)

class Talks(torch.nn.Module):
    def forward(self, pixels):
        print("hello from forward")
        return {"map": torch.nn.functional.avg_pool2d(pixels, 8)}

def build(context):
    print("hello from the factory")
    return Talks()
"""


@pytest.fixture
def chatty(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "chatty_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chatty-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tove]\nchatty = chatty_plugin\n")
    (tmp_path / "chatty_plugin.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.registry.cache_clear()
    yield
    plugins.registry.cache_clear()
    sys.modules.pop("chatty_plugin", None)


def greeted(done: Any) -> set[str]:
    return {line.removeprefix("hello from ") for line in done.err.splitlines() if line.startswith("hello from ")}


def test_lists_and_figures_for_programs_are_json_whatever_a_plugin_prints(tove: Tove, toy: Any, chatty: None) -> None:
    done = tove("experts", "list", "--json")
    assert "chatty:NAME" in {row["name"] for row in json.loads(done.out)}
    assert greeted(done) == {"the module", "the hook"}
    done = tove("experts", "show", "chatty:one", "--json")
    assert json.loads(done.out)["variant"] == "one"
    assert greeted(done) == {"the family"}
    done = tove("plan", "--clip", toy.clip, "--decoder", "none", "--experts", "chatty:two", "--json")
    assert json.loads(done.out)
    assert greeted(done) >= {"the family", "the factory", "forward"}


def test_checks_for_programs_are_json_and_for_people_a_table(tove: Tove, chatty: None) -> None:
    done = tove("experts", "check", "chatty:one", "--json", "--expect-failure", "light-import=one file")
    assert {row["ok"] for row in json.loads(done.out)} == {True}
    assert greeted(done) >= {"the family", "the factory", "the conversion", "forward"}
    assert "hello" not in tove("experts", "check", "chatty:one").out
