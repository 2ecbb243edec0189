"""Run the proof of the kernels in Pythons whose triton interprets them, so that it needs no GPU; and on one, if any."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FILES = [HERE / "test_through_torch.py", *sorted((HERE / "interpreted").glob("test_*.py"))]
ON_DEVICE = [
    "test_through_torch.py",
    "test_gated_mix_triton.py",
    "test_activation_mix_triton.py",
    "test_align_triton.py",
]
WITHIN = os.environ.get("TRITON_INTERPRET") == "1" or "TOVE_TEST_DEVICE" in os.environ


def prove(path: Path, *options: str, **variables: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TOVE_", "PYTEST_"))}
    env |= {"OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(path)]
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=env, capture_output=True, text=True, timeout=600, check=False
    )
    result = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert result and "passed" in result[0] and "skipped" not in result[0], done.stdout[-2_000:]


@pytest.mark.slow
@pytest.mark.skipif(WITHIN, reason="this process runs the files itself")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_kernels_pass_their_proof_in_the_interpreter(path):
    pytest.importorskip("triton", reason="triton is not installed on this platform")
    prove(path, TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(WITHIN, reason="this process runs the files itself")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ON_DEVICE)
def test_kernels_pass_their_proof_on_a_gpu(name):
    (path,) = [path for path in FILES if path.name == name]
    # Nearly all the time goes to compiling, a second or two for each kernel of each case: by several processes.
    workers = min(8, os.cpu_count() or 1)
    parallel = ["-n", str(workers)] if workers > 1 and find_spec("xdist") else []
    prove(path, *parallel, TOVE_TEST_DEVICE="cuda")
