"""How the command ends: what its terminal cannot show or take, and Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tove = Callable[..., Any]


def separately(*words: object, stdout: Any = subprocess.PIPE, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tove_core", *map(str, words)],
        env=os.environ | variables, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip


def test_a_letter_that_the_terminal_lacks_is_escaped(tmp_path: Path) -> None:
    for name in ("prüfung", "andere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("{}")
    done = separately("runs", "compare", tmp_path / "prüfung", tmp_path / "andere", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and f"A: {tmp_path}/pr\\xfcfung" in done.stdout, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = separately("experts", "list", "--no-import", stdout=full)
    assert done.returncode == 1 and done.stderr.startswith("error: the output cannot be written (")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evaluate", "run", "--out", "there"), "stopped; the same command goes on where it was"),
        (("evaluate", "run"), "stopped"),
        (("cache", "build", "run.yaml", "--out", "cache"), "stopped; the same command goes on where it was"),
        (("merge", "run", "--out=nowhere"), "stopped; nothing was written"),
        (("diagnose", "run", "--out", "nowhere"), "stopped; nothing was written"),
    ],
)
def test_ctrl_c_says_what_is_left(
    tove: Tove, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tove_core.cli.main.app", stopped)
    done = tove(*words)
    assert done.code == 130 and done.err == f"{said}\n"
