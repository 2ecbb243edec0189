"""Run models where CLIP, experts and language model lie on a device: a simulated one here, and a GPU if there is one.

Nothing that forgets to move a tensor fails on the CPU. See tests/on_device/simulated.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

HERE = Path(__file__).parent
WITHIN = "TOVE_TEST_DEVICE" in os.environ
FILES = [path.name for path in sorted((HERE / "on_device").glob("test_*.py"))]
SIMULATED = ("test_simulated.py", "test_no_float64.py")
"""About the simulated device alone."""
KERNELS = "test_triton.py"


def prove(device: str, file: str, **variables: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TOVE_", "PYTEST_"))}
    env |= {"OMP_NUM_THREADS": "1", "TOVE_TEST_DEVICE": device, **variables}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_device" / file)]
    done = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, timeout=900, check=False)
    result = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert result and "passed" in result[0], done.stdout[-2_000:]


@pytest.mark.slow
@pytest.mark.skipif(WITHIN, reason="this process runs the files itself")
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are written in Python",
)
@pytest.mark.parametrize("file", [name for name in FILES if name != KERNELS])
def test_models_compute_on_a_simulated_device(file: str) -> None:
    prove("sim", file)


@pytest.mark.slow
@pytest.mark.skipif(WITHIN, reason="this process runs the files itself")
def test_a_model_is_trained_through_interpreted_kernels() -> None:
    pytest.importorskip("triton", reason="triton is not installed on this platform")
    prove("cpu", KERNELS, TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(WITHIN, reason="this process runs the files itself")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("file", [name for name in FILES if name not in SIMULATED])
def test_models_compute_on_a_gpu(file: str) -> None:
    prove("cuda", file)
