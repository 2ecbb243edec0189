"""A whole run from one configuration: read, build, calibrate, cache, train, save."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from tove_core.builder import assemble
from tove_core.calibration import drawn
from tove_core.checkpoint import load, read_manifest, start_from
from tove_core.checks import path_given
from tove_core.config import ExpertConfig, GrowthConfig, RunConfig
from tove_core.data.batches import require_shares
from tove_core.data.broken import try_image
from tove_core.data.cache.folder import SOURCE
from tove_core.data.readers import read
from tove_core.data.sample import Sample, distinct_images, load_image
from tove_core.errors import CheckpointError, ConfigError, DataError
from tove_core.folders import require_writable
from tove_core.hub.checkpoints import CHECKPOINT, find_checkpoint
from tove_core.model import ToveModel
from tove_core.run_folder import CONFIG, STATE, go_on, states, step_of
from tove_core.settings import read_config, write_config
from tove_core.training import refusals
from tove_core.training.finished import finished_steps, is_finished, note_finished
from tove_core.training.loop import fit
from tove_core.training.only import only_experts
from tove_core.training.processes import all_told, join, own_device
from tove_core.training.run_data import source_of
from tove_core.training.shard import require_shardable
from tove_core.training.source import Cache, Stored, make_examples
from tove_core.training.state import restore_statistics
from tove_core.training.trackers import require_trackers
from tove_core.training.validation import validation_of

CALIBRATION_IMAGES = 256
"""How many are measured; fewer where there are fewer."""
CALIBRATION_BYTES = 1 << 30
"""So much of them is kept decoded; what is beyond is decoded again when it is measured, as of large photographs."""


def train(
    config: RunConfig, *, device: str | torch.device | None = None, quiet: bool = False, processes: int | None = None
) -> ToveModel:
    """Start a run; its folder gets the resolved configuration, metrics, states and the final checkpoint.

    Args:
        config: the whole run.
        device: where it computes; with several processes `cuda` gives each a card. None: the CPU.
        quiet: show no progress.
        processes: how many must train together; None: as many as the launcher started.

    Raises:
        CheckpointError: the output folder holds a run already, or cannot be written.
        ConfigError: there are more or fewer processes than wanted.
    """
    together = join(device, processes)
    if (config.output / CONFIG).exists():
        raise _taken(config.output)
    require_writable(config.output)
    together.wait_for_everyone()  # before the first process writes there
    return _run(config, resume=False, device=own_device(device), quiet=quiet)


def resume(
    folder: str | Path, *, device: str | torch.device | None = None, quiet: bool = False, processes: int | None = None
) -> ToveModel:
    """Go on with a stopped run from its last whole state, exactly as if it had not stopped; arguments as for `train`.

    A run that was stopped before it saved a state begins anew, with a warning.

    Raises:
        CheckpointError: the folder holds no run, or one that is finished.
    """
    folder = path_given(folder, "the run")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} holds no run to resume ({CONFIG} is missing)")
    config = read_config(RunConfig, folder / CONFIG).model_copy(update={"output": folder})
    begun = bool(states(folder / STATE))
    # One whose configuration was given more steps since goes on to them.
    if is_finished(folder) and (not begun or finished_steps(folder) >= config.training.steps):
        raise CheckpointError(
            f"{folder} is finished and its model is in {find_checkpoint(folder)}, so there is nothing to go on with; "
            "set another output to train anew"
        )
    newest = max((step_of(state) for state in states(folder / STATE)), default=0)
    if newest > config.training.steps:
        raise CheckpointError(
            f"{folder} has gone {newest:,} steps, and training.steps in its {CONFIG} says {config.training.steps:,}; "
            f"set it to {newest:,} or more, or remove the later states in {folder / STATE}"
        )
    join(device, processes).wait_for_everyone()  # all have looked before the first process writes there
    require_writable(folder)
    if not begun and PartialState().is_main_process:
        every = config.training.save_every
        cure = f"set training.save_every in {folder / CONFIG}" + (f" below {every}" if every else "")
        warnings.warn(
            f"{folder} was stopped before its first state was saved; it begins anew; to lose less, {cure}", stacklevel=2
        )
    return _run(config, resume=begun, device=own_device(device), quiet=quiet)


def _taken(folder: Path) -> CheckpointError:
    """Return the error for a run that was to begin where another is."""
    if is_finished(folder):
        return CheckpointError(f"{folder} holds a run already, which is finished; set another output")
    return CheckpointError(
        f"{folder} holds a run already, which is not finished; go on with {go_on(folder)}, or set another output"
    )


def _run(config: RunConfig, *, resume: bool, device: str | None, quiet: bool) -> ToveModel:
    require_trackers(config.training.trackers)
    refusals.require_trainable(config)
    together = PartialState()
    if config.growth is None:
        require_shardable(config.training, config.model.decoder, together.num_processes)
    # The parts of a divided language model go to the devices one layer at a time; all of it need never be on one.
    waiting = None if config.training.shard == "none" else "cpu"
    quiet = quiet or not together.is_main_process
    require_shares(config.training.batch_size, together.num_processes)
    if together.is_main_process:
        refusals.warn_of_schedule(config.training.steps, config.training.warmup)
        refusals.warn_of_parts(config.training, together.num_processes)
        refusals.warn_of_no_effect(config)
        refusals.warn_of_casts(config)
        if not resume:
            refusals.warn_of_stage(config)
    samples = read(config.data)
    if config.validation is not None and not resume:
        with all_told():
            if together.is_main_process:  # it is measured on when all has been computed
                read(config.validation, key="validation.path")
    refusals.require_fitting(samples, config.training)
    state = config.output / STATE if resume else None
    model = starting_model(config, samples, device=device, decoder_device=waiting, state=state)
    if together.is_main_process:
        refusals.warn_of_no_room(model, samples)
    joining, full = None, False
    if config.growth is not None:
        full = read_manifest(config.growth.source).full  # what needs nothing outside goes on to need nothing
        joining = [expert.key for expert in config.growth.experts]
        config = config.model_copy(update={"model": model.config})
        require_shardable(config.training, model.config.decoder, together.num_processes)
    if not quiet:
        with only_experts(model, joining):
            print(model.parameters_report(), file=sys.stderr)
    examples = make_examples(
        model,
        samples,
        cache=_cache(config),
        quiet=quiet,
        max_broken=config.data.max_broken,
        workers=config.training.workers,
        together=True,
    )
    with all_told():
        if together.is_main_process:
            _keep(config)
    settings = {"seed": config.seed, "output": config.output, "resume": resume, "quiet": quiet, "only": joining}
    validation = validation_of(config, model, quiet=quiet)
    fit(model, examples, config.training, **settings, validation=validation, warn=False)
    with all_told():  # nobody reads the checkpoint before it is there
        if together.is_main_process:
            _end(model, config.output, config.training.steps, full)
    return model


def _cache(config: RunConfig) -> Cache:
    own = config.training.cache
    return Stored(own, _joining_source(config)) if isinstance(own, Path) else own


def _joining_source(config: RunConfig) -> str:
    """Return what `tove cache build` is given for the features of a run that is to be trained; see `build_source`."""
    growth = config.growth
    named = growth is not None and all(one == ExpertConfig(name=one.name) for one in growth.experts)
    if growth is None or not named or not (growth.source / CONFIG).is_file():
        return SOURCE  # its file, which a configuration does not know
    added = [word for expert in growth.experts for word in ("--add", expert.name)]
    return f"{source_of(growth.source, config.data)} {shlex.join(added)}"


def _end(model: ToveModel, output: Path, steps: int, full: bool) -> None:
    """Write the checkpoint that a run ends with after so many steps.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        model.save_pretrained(output / CHECKPOINT, full=full)
        note_finished(output, steps)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; then end the run with {go_on(output)}") from error


def _keep(config: RunConfig) -> None:
    """Write the configuration of a run that does not have it yet.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    path = config.output / CONFIG
    if path.is_file() and read_config(RunConfig, path) == config:
        return
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{config.output} cannot be made ({error}); give another folder as output") from error
    write_config(config, path)


def starting_model(
    config: RunConfig,
    samples: list[Sample],
    *,
    device: str | None = None,
    decoder_device: str | None = None,
    state: Path | None = None,
) -> ToveModel:
    """Return the model a run begins with, calibrated: what its features are computed by, in training and in a cache.

    Args:
        config: `model`, or `growth`; `start` and `seed`.
        samples: the training data.
        device: where it computes.
        decoder_device: where the language model lies at first; None: on `device`.
        state: holds the states of the run that goes on: what they restore is not measured anew, nor read from `start`.
    """
    if config.growth is None:
        model = assemble(config.model, device=device, seed=config.seed, decoder_device=decoder_device)
    else:
        model = _grown(config.growth, samples, device, decoder_device)
    if state is not None and _restored(model, state):
        return model
    if config.start is not None:
        start_from(model, config.start)
    if not model.trained:  # or it was calibrated before it was
        prepare(model, samples)
    return model


def _restored(model: ToveModel, state: Path) -> bool:
    """Calibrate a model as the run's states say; return whether they do."""
    if restore_statistics(state, model.align):
        model.calibrated = model.fusion is not None  # its residual is among what was trained
        return True
    if PartialState().is_main_process:
        warnings.warn(
            f"{state} was written by an older version and holds no channel statistics, so that they are measured anew: "
            "features are what they were as long as the data are",
            stacklevel=4,
        )
    return False


def _grown(growth: GrowthConfig, samples: list[Sample], device: str | None, waiting: str | None) -> ToveModel:
    """Return the trained model that experts join, with them in it and what it says unchanged."""
    model = load(growth.source, device=device, decoder_device=waiting)
    if not model.trained:
        raise ConfigError(f"{growth.source} was never trained; train it with the new experts among model.experts")
    for expert in growth.experts:
        model.add_expert(expert, images=calibration_images(samples))
    return model


def prepare(model: ToveModel, samples: Iterable[Sample]) -> None:
    """Calibrate a model on a draw of the distinct images of its training samples, the same for the same data."""
    model.calibrate(calibration_images(list(samples)))


def calibration_images(samples: list[Sample]) -> list[Any]:
    """Return images of training samples, on which what is fixed is measured: all that are distinct, or a draw of them.

    Raises:
        DataError: none of them can be read.
    """
    images, _ = distinct_images(samples)
    tried = drawn(len(images), CALIBRATION_IMAGES)[: CALIBRATION_IMAGES * 16]
    read: list[Any] = []
    reason, kept = None, 0
    for row in tried:
        pixels, fault = try_image(images[row])  # whoever reads the data for training counts the faults
        reason = reason or fault
        if pixels is not None:
            kept += pixels.nbytes
            read.append(pixels if kept <= CALIBRATION_BYTES else load_image(images[row]))
        if len(read) == CALIBRATION_IMAGES:
            break
    if not read:
        raise DataError(f"none of {len(tried)} images can be used to calibrate on: {reason}")
    return read
