"""TensorBoard and Weights & Biases beside `metrics.jsonl`, through accelerate's trackers; extras install them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from tove_core.errors import ConfigError

Tracker = Literal["tensorboard", "wandb"]
_PACKAGES: dict[Tracker, tuple[str, ...]] = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def require_trackers(names: Sequence[Tracker]) -> None:
    """Refuse trackers that are not installed, before work is done that they should have seen.

    Raises:
        ConfigError: a tracker's package is missing.
    """
    for name in names:
        if not any(importlib.util.find_spec(package) for package in _PACKAGES[name]):
            raise ConfigError(
                f"training.trackers names {name!r}, which is not installed; run 'pip install \"tove-core[{name}]\"' "
                "or leave it out"
            )


class Trackers:
    """The trackers of one run.

    Args:
        names: which ones.
        folder: of the run; TensorBoard's files go to `tensorboard/` in it.
        config: shown beside the curves.
    """

    def __init__(self, names: Sequence[Tracker], folder: Path, config: BaseModel) -> None:
        require_trackers(names)
        self._open = [_opened(name, folder, config) for name in names]

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the numbers among `values` after a step; those of a mapping under `name/key`."""
        flat = {
            (f"{name}/{key}" if key else name): number
            for name, value in values.items()
            for key, number in (value.items() if isinstance(value, Mapping) else [("", value)])
        }
        numbers = {name: value for name, value in flat.items() if isinstance(value, (int, float))}
        for tracker in self._open:
            tracker.log(numbers, step=step)

    def close(self) -> None:
        """Write what is still held back."""
        for tracker in self._open:
            tracker.finish()


def _opened(name: Tracker, folder: Path, config: BaseModel) -> Any:
    from accelerate import tracking

    tracker: Any
    if name == "tensorboard":
        tracker = tracking.TensorBoardTracker("tensorboard", logging_dir=str(folder))
    else:
        tracker = tracking.WandBTracker("tove", name=folder.name, dir=str(folder))
    if hasattr(tracker, "start"):  # older accelerates start them as they are made
        tracker.start()
    if name == "wandb":  # TensorBoard's takes flat values only
        tracker.store_init_configuration(config.model_dump(mode="json"))
    return tracker
