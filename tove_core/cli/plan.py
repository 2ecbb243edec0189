"""`tove plan`: what a model will fetch, take and be licensed under, before anything is downloaded."""

from __future__ import annotations

import json
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tove_core.cli.places import file_of
from tove_core.cli.runs import Device, Licenses, Set, with_policy

if TYPE_CHECKING:
    from tove_core.config import RunConfig
    from tove_core.planning.figures import Plan


def plan(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="YAML file or folder of a run; none: the options alone")
    ] = None,
    experts: Annotated[str | None, typer.Option(help="comma list, in place of the file's; '' for none")] = None,
    clip: Annotated[str | None, typer.Option(help="in place of the file's clip.name, such as ViT-B-16/openai")] = None,
    decoder: Annotated[
        str | None, typer.Option(help="in place of the file's decoder.name; none: no language model")
    ] = None,
    fusion: Annotated[str | None, typer.Option(help="gate, uniform, concat or clip-mlp")] = None,
    set_: Set = None,
    licenses: Licenses = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="images at a time; 1 when not given; with --train the run's batch_size divided by its accumulate",
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="memory for training; of a file's run also disk and computation")
    ] = False,
    images: Annotated[
        int | None, typer.Option(help="distinct images of the run's data; counted when not given, where they are")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="time the run's parts with random weights, and estimate its hours")
    ] = False,
    tflops: Annotated[
        float | None, typer.Option(help="estimate the hours at this speed, which a machine was measured to sustain")
    ] = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Show download, memory, computation and licences of a model without downloading it; of a run, disk and hours.

    Exit code 1 where the licence policy refuses an expert.
    """
    named = {"clip.name": clip, "decoder.name": decoder, "fusion.kind": fusion}
    _require_run(config, train, {"--images": images, "--measure": measure or None, "--tflops": tflops}, device)
    wanted = _configured(config, experts, named, set_ or [])
    model = with_policy(wanted.model, licenses)
    from tove_core.errors import LicenseError
    from tove_core.planning.plan import plan_model

    training = wanted.training
    at_once = math.ceil(training.batch_size / training.accumulate) if train else 1
    with redirect_stdout(sys.stderr):  # experts may print when they are run
        made = plan_model(model, batch=batch_size or at_once, training=train)
        if config is not None and train:
            made = _with_run(wanted.model_copy(update={"model": model}), made, images, measure, tflops, device)
    print(json.dumps(made.as_dict(), indent=2) if as_json else made)
    notes = list(made.unchecked)
    if train and wanted.training.shard != "none":
        notes.append("training.shard divides the decoder's weights and training memory among processes; shown is all")
    for line in notes:
        typer.echo(f"note: {line}", err=True)
    if made.refused:
        raise LicenseError(made.refused if as_json else "the licence policy refuses this model, for the reasons above")


def _require_run(path: Path | None, train: bool, given: dict[str, Any], device: str | None) -> None:
    """Refuse options that say something about a run where none is planned.

    Raises:
        ConfigError: there is no file or no --train, or two options contradict.
    """
    from tove_core.errors import ConfigError

    asked = [name for name, value in given.items() if value is not None]
    if asked and (path is None or not train):
        raise ConfigError(f"{asked[0]} is about a run; give its YAML file, and --train")
    if given["--measure"] and given["--tflops"] is not None:
        raise ConfigError("--measure and --tflops are two sources of one speed; give one of them")
    if device is not None and not given["--measure"]:
        raise ConfigError("--device says where --measure runs; give both, or neither")


def _with_run(
    wanted: RunConfig, made: Plan, images: int | None, measure: bool, tflops: float | None, device: str | None
) -> Plan:
    """Return a plan with what the run takes."""
    from dataclasses import replace

    from tove_core.planning.run import plan_run
    from tove_core.planning.speed import given, measured

    run, step = plan_run(wanted, made, images=images)
    if tflops is not None:
        run = replace(run, hours=given(run, tflops))
    elif measure:
        run = replace(run, hours=measured(wanted, made, run, step, device))
    return replace(made, run=run)


def _configured(path: Path | None, experts: str | None, named: dict[str, str | None], changes: list[str]) -> RunConfig:
    """Return the run that a file and options describe; `named` holds keys of the model, `changes` comes last."""
    from tove_core.config import RunConfig
    from tove_core.settings import read_config

    given = [f"model.{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    if named["decoder.name"] == "none":
        given = ["model.decoder=null", *(one for one in given if not one.startswith("model.decoder."))]
    if experts is not None:
        names = [name.strip() for name in experts.split(",") if name.strip()]
        given.append(f"model.experts={json.dumps(names)}")
    return read_config(RunConfig, file_of(path), [*given, *changes])
