"""`tove plan`: what a model will fetch, take and be licensed under, before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.runs import Licenses, Set, with_policy

if TYPE_CHECKING:
    from tove_core.config import RunConfig


def plan(
    config: Annotated[Path | None, typer.Argument(help="YAML file of a run; none: the options alone")] = None,
    experts: Annotated[str | None, typer.Option(help="comma list, in place of the file's; '' for none")] = None,
    clip: Annotated[str | None, typer.Option(help="as clip.name")] = None,
    decoder: Annotated[str | None, typer.Option(help="as decoder.name; none: no language model")] = None,
    fusion: Annotated[str | None, typer.Option(help="gate, uniform, concat or clip-mlp")] = None,
    set_: Set = None,
    licenses: Licenses = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="images at a time; 1, or with --train as the run's when not given")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="memory for training instead of inference")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show download, memory, computation and licences of a model without downloading it.

    Exit code 1 where the licence policy refuses an expert.
    """
    named = {"clip.name": clip, "decoder.name": decoder, "fusion.kind": fusion}
    wanted = _configured(config, experts, named, set_ or [])
    model = with_policy(wanted.model, licenses)
    from tove_core.errors import LicenseError
    from tove_core.planning.plan import plan_model

    made = plan_model(model, batch=batch or (wanted.training.batch_size if train else 1), training=train)
    print(json.dumps(made.as_dict(), indent=2) if as_json else made)
    notes = list(made.unchecked)
    if train and wanted.training.shard != "none":
        notes.append("training.shard divides the decoder's weights and training memory among processes; shown is all")
    for line in notes:
        typer.echo(f"note: {line}", err=True)
    if made.refused:
        raise LicenseError(made.refused if as_json else "the licence policy refuses this model, for the reasons above")


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
    return read_config(RunConfig, path, [*given, *changes])
