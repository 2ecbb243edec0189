"""`tove train RUN --add NAME`: let experts join a trained run, and say what they brought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tove_core import environment

if TYPE_CHECKING:
    from tove_core.config import DataConfig, RunConfig
    from tove_core.data.sample import Sample
    from tove_core.model import ToveModel

REPORT = "growth.json"
"""Where a run's folder holds what the experts that joined brought."""


class HeldOut(NamedTuple):
    """Held-out samples, and what names them."""

    data: DataConfig
    samples: list[Sample]


def growth_config(run: Path, names: Sequence[str], out: Path | None, overrides: Sequence[str]) -> RunConfig:
    """Return the configuration of a run in which experts join the model of `run`, on the same data.

    Raises:
        ConfigError: an override would change the model, which stays as it is, or an expert is named twice.
        CheckpointError: the folder holds no run.
    """
    from pydantic import ValidationError

    from tove_core.config import GrowthConfig, RunConfig
    from tove_core.errors import CheckpointError, ConfigError
    from tove_core.settings import describe, read_config
    from tove_core.training.run import CONFIG

    if not (run / CONFIG).is_file():
        raise CheckpointError(f"{run} holds no run ({CONFIG} is missing), so its data are unknown; give a run folder")
    for text in overrides:
        if text.partition("=")[0].partition(".")[0].strip() in ("model", "growth", "start", "output"):
            raise ConfigError(
                f"--set {text} would change the model that experts join; set keys of data, validation and training, "
                "and the folder with --out"
            )
    config = read_config(RunConfig, run / CONFIG, overrides)
    try:
        growth = GrowthConfig.model_validate({"source": run, "experts": list(names)})
    except ValidationError as error:
        raise ConfigError(describe(error, GrowthConfig)) from error
    # What the run began with has been trained since, and is in its checkpoint.
    return config.model_copy(update={"growth": growth, "start": None, "output": out or _beside(run, names)})


def _beside(run: Path, names: Sequence[str]) -> Path:
    plain = [name.replace("/", "-").replace(":", "-") for name in names]
    return run.with_name("+".join([run.resolve().name, *plain]))


def held_out_samples(config: RunConfig, limit: int | None) -> HeldOut | None:
    """Read what experts that join are measured on: before they are trained, so that it is known to be there.

    Args:
        limit: only so many samples; None: as the configuration says.

    Returns:
        None where no experts join, there are no such data, or another process measures.
    """
    from tove_core.data.readers import read
    from tove_core.training.run_data import held_out

    data = None if config.growth is None or environment.rank() else held_out(config)
    if data is None:
        return None
    data = data.model_copy(update={"limit": limit or data.limit})
    return HeldOut(data, read(data))


def report_growth(config: RunConfig, model: ToveModel, held: HeldOut | None, *, quiet: bool) -> None:
    """Measure on held-out data what the experts brought, print it, and write it into the run's folder."""
    from accelerate import PartialState

    from tove_core.evaluation.gain import measure_gain
    from tove_core.folders import write_file
    from tove_core.training.run_data import run_examples

    if config.growth is None or not PartialState().is_main_process:
        return
    names = [expert.key for expert in config.growth.experts]
    if held is None:
        print("no gain was measured: the run names no validation data and its data set has no test split")
        return
    data = held.data
    examples = run_examples(config.output, model, data, held.samples, quiet=quiet)
    gain = measure_gain(model, names, examples, quiet=quiet)
    count = len(gain.after.predictions)
    print(f"{count} held-out samples, without and with {', '.join(names)}")
    print(gain)
    content = {"data": data.model_dump(mode="json"), "samples": count, **gain.plain()}
    write_file(config.output / REPORT, json.dumps(content, indent=2) + "\n")
    print(f"wrote {config.output / REPORT}")
