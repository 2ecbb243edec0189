"""What the folder of a run says of its data, and of the cache and workers that serve them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from tove_core.checks import path_given
from tove_core.config import DataConfig, RunConfig
from tove_core.data.cache.folder import SOURCE
from tove_core.data.readers import WITH_SPLITS, options_for, read
from tove_core.data.sample import Sample
from tove_core.errors import CheckpointError
from tove_core.model import ToveModel
from tove_core.places import with_clip_in
from tove_core.run_folder import CONFIG
from tove_core.settings import read_config, write_config
from tove_core.training.examples import Examples
from tove_core.training.source import cache_of, make_examples, workers_of


def describe_run(source: Path, folder: Path, model: ToveModel, data: DataConfig | None = None) -> None:
    """Let a folder made from a run be used like one: its data are the run's if not `data`, its model is `model`."""
    if (source / CONFIG).is_file():
        config = read_config(RunConfig, source / CONFIG)
        # A tower that was trained by merging is nowhere but in the folder itself.
        built = with_clip_in(model.config, folder) if model.origin.own_tower else model.config
        changes = {"model": built, "growth": None, "start": None, "output": folder, "data": data or config.data}
        write_config(config.model_copy(update=changes), folder / CONFIG)


def run_data(folder: str | Path, limit: int | None, *, train: bool = False) -> DataConfig:
    """Return where a run's validation samples are, or its training samples where it has none or `train` is set.

    Args:
        limit: at most so many, and never more than the configuration says; None: as it says.

    Raises:
        CheckpointError: the folder holds no run.
    """
    folder = path_given(folder, "the run")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} holds no run ({CONFIG} is missing), so its data are unknown; give a run folder"
        )
    config = read_config(RunConfig, folder / CONFIG)
    data = config.data if train or config.validation is None else config.validation
    return data.model_copy(update={"limit": within(data, limit)})


def within(data: DataConfig, limit: int | None) -> int | None:
    """Return how many samples of some data are taken where at most `limit` are wanted; None: all."""
    return min((one for one in (limit, data.limit) if one is not None), default=None)


def run_samples(folder: str | Path, limit: int | None, *, train: bool = False) -> list[Sample]:
    """Read what `run_data` names.

    Raises:
        CheckpointError: the folder holds no run.
    """
    return read(run_data(folder, limit, train=train))


def run_examples(
    run: str | Path,
    model: ToveModel,
    data: DataConfig,
    samples: list[Sample],
    *,
    cache: str | Path | None = None,
    quiet: bool = False,
) -> Examples:
    """Bind samples to a run's model as it was trained: with its cache, its `workers`, and features kept or not.

    Args:
        data: what was read; its `max_broken` says which share of the images may be unreadable.
        cache: read instead of the run's own.

    Raises:
        DataError: see `make_examples`.
    """
    run, cache = path_given(run, "the run"), None if cache is None else path_given(cache, "cache")
    found = cache_of(run, cache, build_source(run, data))
    broken, workers = data.max_broken, workers_of(run)
    return make_examples(model, samples, cache=found, quiet=quiet, max_broken=broken, workers=workers)


def held_out(config: RunConfig) -> DataConfig | None:
    """Return the data a run was not trained on: its validation data, else its data set's test split; None: neither."""
    if config.validation is not None:
        return config.validation
    if config.data.reader in WITH_SPLITS and config.data.split != "test":
        changes = {"split": "test", "limit": None, "options": options_for("test", config.data)}
        return config.data.model_copy(update=changes)
    return None


def build_source(run: Path, data: DataConfig) -> str:
    """Return what `tove cache build` is given to compute the features of some data as the model of a run sees them.

    Args:
        run: a folder; what holds no run is replaced by the word for its file.
        data: its training data, its held-out data, or others.
    """
    return source_of(run, data) if (run / CONFIG).is_file() else SOURCE


def source_of(run: Path, data: DataConfig) -> str:
    """Return those words for the folder of a run."""
    config, words = read_config(RunConfig, run / CONFIG), [str(run)]
    held = held_out(config)
    if _differing(data, config.data) and held is not None and not _differing(data, held):
        words.append("--held-out")
    else:
        for key, value in _differing(data, config.data).items():
            plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            words += ["--set", f"data.{key}={plain}"]
    return shlex.join(words)


def _differing(data: DataConfig, known: DataConfig) -> dict[str, Any]:
    """Return the keys, with their values, in which data are not `known` or a part of them."""
    wanted, own = data.model_dump(mode="json"), known.model_dump(mode="json")
    within = known.limit is None or (data.limit is not None and data.limit <= known.limit)
    left_out = {"max_broken", "limit"} if within else {"max_broken"}
    return {key: value for key, value in wanted.items() if value != own[key] and key not in left_out}
