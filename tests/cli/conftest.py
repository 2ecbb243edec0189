from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line after `error: `, which is all a failed command may say."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code == 1, self
        assert len(lines) == 1 and "Traceback" not in self.err, self.err
        return lines[0]


@pytest.fixture
def tove(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Give `tove(*words)`: run the command as its entry point does, in this process."""
    from tove_core.cli.main import main

    monkeypatch.delenv("TOVE_TRACEBACK", raising=False)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["tove", *map(str, words)])
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                main()
                code = 0
            except SystemExit as leaving:
                code = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run
