"""Run the files of interpreted/ in Pythons whose triton interprets: the proof of the kernels without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "interpreted").glob("test_*.py"))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this session runs the files itself")
@pytest.mark.parametrize("name", FILES)
def test_kernels_pass_their_proof_in_the_interpreter(name):
    pytest.importorskip("triton", reason="triton is not installed on this platform")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TOVE_", "PYTEST_"))}
    env |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted" / name)]
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=env, capture_output=True, text=True, timeout=600, check=False
    )
    result = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert result and "passed" in result[0] and "skipped" not in result[0], done.stdout[-2_000:]
