from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich import markup

from tove_core import __version__, plugins
from tove_core.cli.main import app

Tove = Callable[..., Any]


@pytest.fixture
def failing(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A plugin that cannot be imported, beside the toy one."""
    info = tmp_path / "broken_plugin-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[tove]\nbroken = no_such_module_of_a_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.registry.cache_clear()
    yield
    monkeypatch.undo()
    plugins.registry.cache_clear()


def test_experts_are_listed_for_people_and_for_programs(tove: Tove, toy: Any) -> None:
    rows = {row["name"]: row for row in json.loads(tove("experts", "list", "--json").out)}
    assert rows["toy-wide"] == {
        "name": "toy-wide",
        "outputs": "map 33x2x3",
        "params": None,
        "GFLOP": None,
        "license": "MIT",
        "commercial": None,
        "variants": [],
        "from": "toy-experts 1.0",
        "status": "ok",
        "summary": "A convolution.",
    }
    assert rows["toy-whole"]["variants"] == ["small", "large"] and rows["toy-fine"]["outputs"] == "depth 3x6x9"
    lines = tove("experts", "list").out.splitlines()
    assert lines[0].split()[0] == "name" and any(line.startswith("toy-fine ") for line in lines)
    entries = json.loads(tove("experts", "list", "--json", "--no-import").out)
    assert {"name": "toys", "from": "toy-experts 1.0", "status": "not imported"} in entries


def test_declared_costs_are_listed_with_their_units(tove: Tove, toy: Any) -> None:
    lines = [line.split() for line in tove("experts", "list").out.splitlines()]
    (blank,) = [line for line in lines if line[0] == "world-blank"]
    head = lines[0]
    assert head == ["name", "outputs", "params", "GFLOP", "license", "commercial", "from", "status", "summary"]
    assert blank[1:3] == ["blank", "1x24x24"] and blank[3:7] == ["0.0M", "0", "Apache-2.0", "yes"]
    row = next(r for r in json.loads(tove("experts", "list", "--json").out) if r["name"] == "world-depth-day")
    offer = plugins.experts()["world-depth-day"].spec
    assert offer.cost is not None and offer.cost.flops is not None
    (edges,) = [line for line in lines if line[0] == "edges"]
    assert edges[5:8] == ["none", "needed", "yes"], "an expert without weights needs no licence"
    assert row["params"] == offer.cost.params and row["GFLOP"] == offer.cost.flops / 1e9 and row["commercial"] is True


def test_blocked_plugins_are_rows_with_and_without_import(
    tove: Tove, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOVE_BLOCK", "Toy_Experts")
    plugins.registry.cache_clear()
    blocked = {"name": "toys", "from": "toy-experts 1.0", "status": "blocked by TOVE_BLOCK"}
    try:
        for words in ([], ["--no-import"]):
            assert blocked in json.loads(tove("experts", "list", "--json", *words).out)
        shown = next(line for line in tove("experts", "list").out.splitlines() if line.startswith("toys "))
        assert "blocked by TOVE_BLOCK" in shown and " ok " not in shown
        monkeypatch.delenv("TOVE_BLOCK")
        monkeypatch.setenv("TOVE_PLUGINS", "")
        entries = {
            row["from"]: row["status"] for row in json.loads(tove("experts", "list", "--json", "--no-import").out)
        }
        assert entries["toy-experts 1.0"] == "blocked by TOVE_PLUGINS"
        assert {status for name, status in entries.items() if name.startswith("tove-core ")} == {"not imported"}
    finally:
        monkeypatch.undo()
        plugins.registry.cache_clear()


def test_an_expert_is_shown_with_all_it_declares(tove: Tove, toy: Any) -> None:
    done = tove("experts", "show", "toy-whole:large")
    assert done.out.startswith("toy-experts/toy-whole  (from toy-experts 1.0)")
    assert json.loads(done.out[done.out.index("{") : done.out.rindex("}") + 1])["outputs"]["code"]["channels"] == 40
    assert done.out.splitlines()[-1] == "variants: small, large  (default small)"
    assert "outputs:    code 40" in done.out and "license:    none needed" in done.out
    told = json.loads(tove("experts", "show", "toy-whole:large", "--json").out)
    assert (
        told["variant"] == "large"
        and told["spec"]["outputs"]["code"]["channels"] == 40
        and told["outputs"] == "code 40"
    )
    assert "did you mean toy-wide" in tove("experts", "show", "toy-wid").error


def test_a_family_is_listed_as_one_and_shown_by_a_member(tove: Tove, toy: Any) -> None:
    rows = {row["name"]: row for row in json.loads(tove("experts", "list", "--json").out)}
    assert "timm" not in rows
    row = rows["timm:NAME"]
    assert (row["outputs"], row["params"], row["license"], row["variants"]) == ("as NAME says", None, None, [])
    shown = json.loads(tove("experts", "show", "timm", "--json").out)
    assert (shown["name"], shown["params"], shown["license"]) == ("timm:NAME", None, None)
    assert '"architecture": "resnet18.a1_in1k"' in tove("experts", "show", "timm").out
    assert '"architecture": "test_vit.r160_in1k"' in tove("experts", "show", "timm:test_vit").out
    assert "stands for a family; name the member" in tove("weights", "lock", "timm").error
    assert "did you mean" in tove("experts", "show", "timm:test_vitt").error


def test_a_plugin_that_fails_is_reported_and_the_others_stay(tove: Tove, toy: Any, failing: Any) -> None:
    done = tove("experts", "list", "--json")
    assert done.code == 0 and "toy-fine" in {row["name"] for row in json.loads(done.out)}
    assert "broken-plugin 2.0 failed to load" in done.err and "no_such_module_of_a_plugin" in done.err
    (row,) = [row for row in json.loads(done.out) if row["status"] == "failed"]
    assert row["name"] == "broken" and row["from"] == "broken-plugin 2.0" and "ModuleNotFoundError" in row["summary"]
    doctor = tove("doctor")
    assert doctor.code == 1 and "failed: broken-plugin 2.0" in doctor.out and "ModuleNotFoundError" in doctor.out
    done = tove("experts", "show", "toy-gone")
    assert done.code == 1 and "broken-plugin" in done.err and "Traceback" not in done.err


def test_a_plugin_that_offers_nothing_is_told(
    tove: Tove, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "shy_plugin-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shy-plugin\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[tove]\nshy = shy_plugin\n")
    code = "from tove_core import hookimpl\n\n@hookimpl\ndef tove_experts():\n    return []\n"
    (tmp_path / "shy_plugin.py").write_text(code)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        plugins.registry.cache_clear()
        done = tove("experts", "list", "--json")
        row = {"name": "shy", "from": "shy-plugin 2.0", "status": "offers no expert"}
        assert row in json.loads(done.out)
        assert "shy-plugin 2.0 offers no expert: its tove_experts() returns an empty list" in done.err
        assert "offers no expert: shy-plugin 2.0, entry point 'shy'" in tove("doctor").out
        assert "shy-plugin 2.0 offers no expert" in tove("experts", "show", "shy").err
    plugins.registry.cache_clear()


def test_doctor_is_well_without_failures(tove: Tove, toy: Any) -> None:
    done = tove("doctor")
    failures = plugins.registry().failures
    assert done.code == (1 if failures else 0)
    assert all(f"\n{name} " in done.out for name in ("torch", "triton", "transformers", "open_clip_torch", "timm"))
    assert done.out.startswith("python 3.") and "torch is built for" in done.out and "devices: " in done.out
    assert "toy" not in "".join(map(str, failures)) and "network forbidden" in done.out


def test_doctor_says_which_kernels_run_and_why(tove: Tove, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOVE_KERNELS", "reference")
    assert ": reference: TOVE_KERNELS=reference\n" in tove("doctor").out
    monkeypatch.setenv("TOVE_KERNELS", "fast")
    assert "none, TOVE_KERNELS is 'fast'; wanted one of auto, reference, compiled, triton" in tove("doctor").out


def test_everything_blocked_lists_nothing(tove: Tove, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "registry", plugins.Registry)
    monkeypatch.setattr(plugins, "experts", dict)
    assert tove("experts", "list", "--json").out.strip() == "[]"
    done = tove("experts", "list")
    assert done.code == 0 and "no experts" in done.out


def test_weights_of_an_empty_lock(tove: Tove, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "home"))
    assert tove("weights", "lock").out == f"0 files pinned in {tmp_path / 'home' / 'weights.lock.json'}\n"
    told = {"lock": str(tmp_path / "home" / "weights.lock.json"), "files": [], "without_files": {}}
    assert json.loads(tove("weights", "lock", "--json").out) == told
    assert "leave out one of them" in tove("weights", "lock", "toy-wide", "--json").error
    nothing = tove("weights", "verify")
    assert nothing.out == "0 files checked, 0 failed\n" and "nothing was checked" in nothing.error
    assert "is not pinned" in tove("weights", "update", "someone/something").error
    assert tove("weights", "lock", "toy-wide").out == "toy-wide: nothing to download\n"
    assert "did you mean toy-wide" in tove("weights", "lock", "toy-wid").error
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "weights.lock.json").write_text("{")
    assert "cannot be read as a lock file" in tove("weights", "lock").error


def test_version_help_and_misuse(tove: Tove) -> None:
    assert tove("--version").out == f"tove {__version__}\n"
    shown = tove("--help")
    assert shown.code == 0 and all(word in shown.out for word in ("train", "detach", "merge", "experts"))
    assert tove("trane").code == 2 and tove("evaluate", "x", "--limit", "0").code == 2


def test_no_help_is_taken_for_markup() -> None:
    commands = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for text in [command.help, *(getattr(one, "help", None) for one in command.params)]:
            assert markup.render(text or "").plain == (text or ""), f"{command.name}: {text}"
    assert len(commands) > 30


def test_a_failure_that_takes_several_lines_to_tell_takes_one(
    tove: Tove, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "wordy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wordy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tove]\nwordy = wordy_plugin\n")
    (tmp_path / "wordy_plugin.py").write_text("raise RuntimeError('one\\n  two\\n\\nthree')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.registry.cache_clear()
    lines = tove("experts", "list").err.splitlines()
    monkeypatch.undo()
    plugins.registry.cache_clear()
    assert len(lines) == 1 and "one two three" in lines[0] and lines[0].endswith("'tove doctor' tells more")
