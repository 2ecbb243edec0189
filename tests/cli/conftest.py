"""A small run that commands are tried on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Settings = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(toy: Any) -> Settings:
    """Give `settings(output, **changes)`: a run's configuration as a mapping, on toy parts."""

    def made(output: Path, **changes: Any) -> dict[str, Any]:
        gate = {"hidden": 6, "balance_warmup": 1}
        model = {
            "clip": {"name": toy.clip},
            "experts": list(toy.experts),
            "fusion": {"gate": gate},
            "decoder": {"name": toy.decoder, "max_new_tokens": 4, "train": "all"},
        }
        training = {"steps": 6, "batch_size": 5, "warmup": 1, "log_every": 1, "save_every": 3, "learning_rate": 0.01}
        whole = {"model": model, "data": {"path": str(toy.data)}, "training": training, "output": str(output)}
        return whole | changes

    return made


@pytest.fixture
def write(settings: Settings, tmp_path: Path) -> Callable[..., Path]:
    """Give `write(**changes)`: a file of such a configuration."""

    def yaml_file(**changes: Any) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings(tmp_path / "run", **changes)))
        return path

    return yaml_file


@pytest.fixture(scope="module")
def run(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of three experts."""
    from tove_core.config import RunConfig
    from tove_core.training import train

    folder = tmp_path_factory.mktemp("cli") / "run"
    train(RunConfig.model_validate(settings(folder)), quiet=True)
    return folder
