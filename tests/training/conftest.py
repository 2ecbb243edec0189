"""Runs in processes of their own, for tests of several of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("driver.py")
GATE = {"hidden": 6, "noise": 0.7, "balance": 0.5, "balance_warmup": 1, "expert_dropout": 0.3}


class Processes:
    """Describes runs of the toy model, runs them in one interpreter that forks, and reads what they wrote."""

    @staticmethod
    def job(toy: Any, output: Path, world: int = 1, decoder: str = "", **more: Any) -> dict[str, Any]:
        """Describe a run for the driver; other keys than `training`'s own go to the job."""
        training = {"steps": 8, "batch_size": 5, "learning_rate": 1e-2, "warmup": 2, "log_every": 1, "save_every": 2}
        model = {
            "experts": list(toy.experts),
            "clip": toy.clip,
            "decoder": {"name": decoder or toy.decoder, "train": "all"},
            "fusion": {"kind": "gate", "gate": GATE},
            "seed": 4,
        }
        training |= more.pop("training", {})
        return {
            "output": str(output),
            "world": world,
            "data": str(toy.data),
            "model": model,
            "training": training,
        } | more

    @staticmethod
    def drive(toy: Any, folder: Path, jobs: list[dict[str, Any]]) -> None:
        """Run jobs one after another."""
        (folder / "jobs.json").write_text(json.dumps(jobs))
        env = os.environ | {"PYTHONPATH": str(toy.site), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        words = [sys.executable, str(DRIVER), str(folder / "jobs.json")]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr

    @staticmethod
    def steady(toy: Any, folder: Path) -> str:
        """Copy the toy decoder without its dropout, which belongs to a process and not to a sample."""
        shutil.copytree(toy.decoder, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.0}))
        return str(folder)

    @staticmethod
    def metrics(folder: Path) -> list[dict[str, Any]]:
        """Read a run's metrics but for its speed."""
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


@pytest.fixture(scope="session")
def processes() -> type[Processes]:
    return Processes
