"""TensorBoard and Weights & Biases beside `metrics.jsonl`, through accelerate's trackers; extras install them."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from tove_core.errors import CheckpointError, ConfigError, ToveError
from tove_core.folders import write_file

Tracker = Literal["tensorboard", "wandb"]
_PACKAGES: dict[Tracker, tuple[str, ...]] = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


WANDB_ID = "wandb-id.txt"
"""Where a run's folder holds the name under which Weights & Biases knows it, so that a resumed run is the same one."""


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
        first_step: the step a run goes on from; what was logged of later ones is logged again. 0: it begins.
    """

    def __init__(self, names: Sequence[Tracker], folder: Path, config: BaseModel, first_step: int = 0) -> None:
        require_trackers(names)
        self._folder = folder
        with _disk_named(folder):
            self._open = [_opened(name, folder, config, first_step) for name in names]

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the numbers among `values` after a step; those of a mapping under `name/key`.

        Raises:
            CheckpointError: they cannot be written.
        """
        flat = {
            (f"{name}/{key}" if key else name): number
            for name, value in values.items()
            for key, number in (value.items() if isinstance(value, Mapping) else [("", value)])
        }
        numbers = {name: value for name, value in flat.items() if isinstance(value, (int, float))}
        with _disk_named(self._folder):
            for tracker in self._open:
                tracker.log(numbers, step=step)

    def close(self) -> None:
        """Write what is still held back.

        Raises:
            CheckpointError: it cannot be written.
        """
        with _disk_named(self._folder):
            for tracker in self._open:
                tracker.finish()


@contextmanager
def _disk_named(folder: Path) -> Iterator[None]:
    """Say in one sentence that a tracker cannot write."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ToveError):
            raise
        raise CheckpointError(
            f"the trackers cannot write into {folder} ({error}); make room, or leave them out"
        ) from error


def _opened(name: Tracker, folder: Path, config: BaseModel, first_step: int) -> Any:
    from accelerate import tracking

    tracker: Any
    if name == "tensorboard":
        # Its reader drops what an earlier process logged from that step on.
        tracker = tracking.TensorBoardTracker("tensorboard", logging_dir=str(folder), purge_step=first_step + 1)
    else:
        known = {"id": _wandb_id(folder / WANDB_ID, first_step), "resume": "allow"}
        tracker = tracking.WandBTracker("tove", name=folder.name, dir=str(folder), **known)
    if hasattr(tracker, "start"):  # older accelerates start them as they are made
        tracker.start()
    if name == "wandb":  # TensorBoard's takes flat values only
        tracker.store_init_configuration(config.model_dump(mode="json"))
    return tracker


def _wandb_id(path: Path, first_step: int) -> str:
    """Return the id of a run that goes on; one that begins gets a new one, because steps there only ever rise."""
    if first_step and path.is_file():
        known = path.read_text(encoding="utf-8").strip()
        if known:
            return known
    made = uuid.uuid4().hex
    write_file(path, made + "\n")
    return made
