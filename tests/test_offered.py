"""What a plugin's author reads who got one thing wrong."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tove_core import naming, offered
from tove_core.errors import PluginError

PLUGIN = """
from tove_core.hookspecs import hookimpl
from tove_core.spec import *

def expert(**changed):
    given = dict(api=1, name="eye", summary="An expert.", factory="m:build", input=Input(size=(32, 32)),
                 outputs={"map": Grid(channels=32, stride=4)})
    return ExpertSpec(**(given | changed))

@hookimpl
def tove_experts():
    return EXPERTS
"""
_serial = itertools.count()


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Give `read(experts, hook="tove_experts()")`: what is read from a plugin that returns that expression."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(experts: str, hook: str = "tove_experts()") -> list:
        module = f"offered_{next(_serial)}"  # Python imports a name once per process
        text = PLUGIN.replace("EXPERTS", experts).replace("tove_experts()", hook)
        (tmp_path / f"{module}.py").write_text(text)
        return offered.read(EntryPoint("eye", module, "tove").load, "eye")

    return write


WEIGHTS = 'weights=Weights(repo="a/b", license="MIT", {})'
WRONG = {
    "a spec for a list": ("expert()", r"returned the ExpertSpec 'eye' itself; return a list: \[SPEC\]"),
    "a number for a list": ("7", r"returned int; return a list of ExpertSpec"),
    "a name with capitals": (
        "[expert(name='Depth_Any')]",
        r"ExpertSpec\.name: 'Depth_Any' cannot be used; give lower-case words joined by hyphens, such as 'depth-any'",
    ),
    "an output's name": ("[expert(outputs={'Map': Vector(channels=3)})]", r"ExpertSpec\.outputs\.Map: 'Map' .*'map'"),
    "a pickle": (
        f"[expert({WEIGHTS.format('file=' + repr('net.pth'))})]",
        r"Weights\.file: 'net\.pth' is no safetensors file, and weights are read from nothing else, never unpickled",
    ),
    "an absolute path": (f"[expert({WEIGHTS.format('file=' + repr('/a.safetensors'))})]", r"give a path relative to"),
    "a short commit": (f"[expert({WEIGHTS.format('revision=' + repr('abc123'))})]", r"'abc123' .* 40 hex digits"),
    "a factory without a colon": ("[expert(factory='m.build')]", r"'m\.build' cannot be used; give 'module:function'"),
    "the default norm on few channels": (
        "[expert(outputs={'map': Grid(channels=3, stride=4)})]",
        r"^Grid\(channels=3, stride=4\): norm 'position' over 3 channels would erase the map",
    ),
    "a misspelt field": (
        "[expert(sumary='x')]",
        r"ExpertSpec\.sumary: there is no such field; did you mean 'summary'\?",
    ),
    "a misspelt field of a part": ("[expert(input=Input(sise=(3, 3)))]", r"Input\.sise: .* did you mean 'size'\?"),
    "a field like no other": ("[expert(colour='x')]", r"ExpertSpec\.colour: there is no such field \("),
    "a missing field": ("[ExpertSpec(api=1, name='eye')]", r"ExpertSpec\.summary is missing; ExpertSpec\.factory is"),
    "a long summary": ("[expert(summary='long ' * 30)]", r"ExpertSpec\.summary: .*80 characters \(got 'long long"),
    "another api": ("[expert(api=2)]", r"ExpertSpec\.api: .*\(got 2\); this tove-core knows api 1"),
    "a default that is no variant": ("[expert(default='x')]", r"default 'x' is not one of the variants \[\]"),
}


@pytest.mark.parametrize(("experts", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_in_a_spec_is_told_by_name_value_and_cure(experts, says, read):
    with pytest.raises(PluginError) as caught:
        read(experts)
    said = str(caught.value)
    assert re.search(says, said), said
    assert "\n" not in said and "Value error" not in said and "String should match" not in said


def test_the_line_of_the_plugin_is_told(read):
    with pytest.raises(PluginError, match=r" \(offered_\d+\.py, line 12\)$"):
        read("[Grid(channels=3, stride=4)]")


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        (
            "tove_expert()",
            r"^it implements tove_expert\(\), which is no hook of tove; did you mean tove_experts\(\)\?$",
        ),
        ("tove_experts(context)", r"its tove_experts\(\) does not fit the hook, which takes no arguments \(.*context"),
    ],
)
def test_a_hook_that_is_none_is_told_without_paths(hook, says, read):
    with pytest.raises(PluginError) as caught:
        read("[]", hook)
    assert re.search(says, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_what_is_right_is_read(read):
    assert [spec.name for spec in read("(expert(name=name) for name in ('eye', 'ear-2'))")] == ["eye", "ear-2"]
    assert read("[]") == []


@pytest.mark.parametrize(
    ("name", "close"), [("Depth_Any", "depth-any"), ("myExpert", "my-expert"), ("2d", "depth-any"), ("", "depth-any")]
)
def test_a_name_near_the_wrong_one_is_proposed(name, close):
    assert naming.wanted(name) == f"lower-case words joined by hyphens, such as {close!r}"
