"""These files run models on a device: test_on_a_device.py, one folder up, runs them in a process of their own.

TOVE_TEST_DEVICE=sim computes on a simulated device, which finds what lies on the wrong one; TOVE_TEST_DEVICE=cuda on a
GPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

DEVICE = os.environ.get("TOVE_TEST_DEVICE", "")
if not DEVICE:
    collect_ignore_glob = ["test_*.py"]
elif DEVICE == "sim":
    sys.path.insert(0, str(Path(__file__).parent))
    from simulated import register

    register()

Settings = Callable[..., Path]


@pytest.fixture(scope="session")
def device() -> str:
    """The device under test."""
    return DEVICE


@pytest.fixture(scope="session")
def near() -> Callable[[Any, torch.Tensor], None]:
    """Give `near(got, want)`: got is on the device and what the CPU computed."""
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if DEVICE == "sim" else {"rtol": 2e-3, "atol": 2e-3}

    def check(got: torch.Tensor, want: torch.Tensor) -> None:
        assert got.device.type == DEVICE.partition(":")[0] and want.device.type == "cpu"
        torch.testing.assert_close(got.cpu(), want, **tolerance)

    return check


@pytest.fixture
def settings(toy: Any, tmp_path: Path) -> Settings:
    """Give `settings(name, model__fusion__kind="concat")`: the file of a configuration with changed keys."""

    def write(name: str, **changes: Any) -> Path:
        gate = {"hidden": 6, "balance_warmup": 1, "noise": 0.3, "expert_dropout": 0.2}
        whole: dict[str, Any] = {
            "model": {
                "clip": {"name": toy.clip},
                "experts": list(toy.experts),
                "fusion": {"gate": gate},
                "decoder": {"name": toy.decoder, "max_new_tokens": 4, "train": "all"},
            },
            "data": {"path": str(toy.data)},
            "training": {"steps": 4, "batch_size": 5, "warmup": 1, "log_every": 1, "learning_rate": 1e-2},
            "output": str(tmp_path / name),
        }
        for keys, value in changes.items():
            *outer, last = keys.split("__")
            place = whole
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    return write
