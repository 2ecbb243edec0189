from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tove_core.testing import CATALOGUE

Tove = Callable[..., Any]
TOY = ("--expect-failure", "light-import=the toy plugin is one file")


def test_an_expert_is_shown_check_by_check_with_a_count(tove: Tove, toy: Any) -> None:
    done = tove("experts", "check", "toy-fine", *TOY)
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0] == "toy-fine  (from toy-experts 1.0)"
    assert [line[21:].split()[0] for line in lines[1:-1]] == [definition.id for definition in CATALOGUE]
    assert (
        "  not applicable     params-exact               no cost is declared; measured: cost=Cost(params=147)" in lines
    )
    assert lines[-1].startswith("29 checks: 19 passed, 1 failed as expected, 9 not applicable  (")


def test_a_failure_is_told_with_cause_and_cure_and_ends_in_exit_code_one(tove: Tove, toy: Any) -> None:
    done = tove("experts", "check", "toy-wide", "--quiet", *TOY)
    lines = done.out.splitlines()
    assert done.code == 1
    assert lines[0].startswith(
        "  failed             toy-wide weights-pinned-or-lockable package weights without a hash"
    )
    assert lines[1].startswith("    cause: ") and lines[2].startswith("    cure: ")
    assert ", 1 failed, " in lines[-1]


def test_what_was_not_run_has_no_cause_of_its_own_and_ends_in_exit_code_one(tove: Tove, toy: Any, monkeypatch) -> None:
    import torch
    import toy_experts

    monkeypatch.setattr(toy_experts, "build", lambda ctx: torch.nn.Identity())
    done = tove("experts", "check", "toy-fine", *TOY)
    lines = done.out.splitlines()
    assert done.code == 1
    stopped = [at for at, line in enumerate(lines) if line.startswith("  not run            ")]
    assert len(stopped) > 5
    # What keeps them all from looking is told once.
    assert sum("returned Tensor; return a mapping" in line for line in lines) <= 3
    assert sum(lines[at].endswith(" as above") for at in stopped) >= len(stopped) - 2
    records = json.loads(tove("experts", "check", "toy-fine", "--json", *TOY).out)
    told = [one["detail"] for one in records if one["status"] == "not run"]
    assert len(told) == len(stopped) and all("returned Tensor; return a mapping" in one for one in told)
    assert not any(lines[at + 1].startswith("    cause: ") for at in stopped)
    assert sum(line.startswith("    cause: ") for line in lines) == 1
    assert f", 1 failed, {len(stopped)} not run, " in lines[-1]


def test_an_announced_failure_is_no_failure_and_must_come(tove: Tove, toy: Any) -> None:
    known = "weights-pinned-or-lockable=written anew for each test"
    done = tove("experts", "check", "toy-wide", "--expect-failure", known, *TOY)
    assert done.code == 0
    assert "failed as expected weights-pinned-or-lockable written anew for each test (package weights" in done.out
    done = tove("experts", "check", "toy-fine", "--expect-failure", "finite=it divides by zero", "--quiet", *TOY)
    assert done.code == 1
    assert "(it divides by zero) but passed; remove the expectation" in done.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name the experts to check, or give --all"),
        (["--all", "toy-wide"], "toy-wide and --all were both given"),
        (["toy-wid"], "did you mean toy-wide"),
        (["toy-fine", "toy-wid"], "did you mean toy-wide"),
        (["toy-fine", "--expect-failure", "finit=no"], "there is no check 'finit'"),
        (["toy-fine", "--expect-failure", "finite"], "check 'finite' is expected to fail without a reason"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_anything_is_built(words, says, tove: Tove, toy: Any) -> None:
    done = tove("experts", "check", *words)
    assert says in done.error
    assert done.out == ""


def test_programs_read_json(tove: Tove, toy: Any) -> None:
    records = json.loads(tove("experts", "check", "toy-fine", "toy-whole:large", "--json").out)
    assert len(records) == 2 * len(CATALOGUE)
    assert {record["expert"] for record in records} == {"toy-fine", "toy-whole:large"}
    first = records[0]
    assert first.pop("seconds") >= 0
    assert first == {"expert": "toy-fine", "check": "spec-valid", "status": "passed", "ok": True, "detail": ""}


def test_all_means_every_installed_expert_and_a_plugin_that_failed_is_a_failure(
    tove: Tove, toy: Any, monkeypatch
) -> None:
    from tove_core import plugins

    kept = [offer for offer in plugins.registry().offers if offer.source.distribution == "toy-experts"]
    monkeypatch.setattr(plugins, "registry", lambda: plugins.Registry(offers=kept))
    known = ("--expect-failure", "toy-wide/weights-pinned-or-lockable=written anew for each test")
    done = tove("experts", "check", "--all", *TOY, *known)
    assert done.code == 0
    headings = [line.partition(" ")[0] for line in done.out.splitlines() if "(from" in line]
    assert headings == ["toy-fine", "toy-names", "toy-whole:small", "toy-whole:large", "toy-wide"]
    broken = {plugins.Source("broken-plugin", "2.0", "broken"): ImportError("gone")}
    monkeypatch.setattr(plugins, "registry", lambda: plugins.Registry(offers=kept[:1], failures=broken))
    done = tove("experts", "check", "--all", *TOY)
    assert done.code == 1
    assert "broken-plugin 2.0 failed to load (ImportError: gone)" in done.err
