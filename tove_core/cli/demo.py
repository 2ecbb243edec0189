"""`tove demo`: the whole life cycle on the embedded world."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="folder for checkpoint, pictures and report")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="repeat training with so many seeds")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier demo in that folder")] = False,
    small: Annotated[
        bool, typer.Option("--small", help="tiny models and data: all parts run, and the figures say nothing")
    ] = False,
    merge_steps: Annotated[
        int | None, typer.Option(min=1, help="steps of merging, and of its control; 300 if not given")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
    rebuild_weights: Annotated[
        bool,
        typer.Option("--rebuild-weights", help="train the world's models anew, into OUT"),
    ] = False,
) -> None:
    """Train CLIP only and the hub on the embedded world, detach, merge, and print what was measured. No download."""
    from tove_core.folders import require_new

    if rebuild_weights:
        _refuse_with_rebuild(seeds, small, merge_steps)
    if overwrite and (out / "report.json").is_file():
        from tove_core.demo.results import holds_report

        if holds_report(out):
            shutil.rmtree(out)
    require_new(out, "give another folder, or --overwrite where an earlier demo is in it")
    if rebuild_weights:
        from tove_core.demo.rebuild import rebuild

        rebuild(out, report=(lambda _: None) if quiet else print)
        print(f"wrote {out}; to use it, put it in the place of tove_core/demo/assets")
        return
    from tove_core.demo import run, world

    size = world.SMALL if small else world.FULL
    run.demo(out, seeds=seeds, size=replace(size, merge_steps=merge_steps or size.merge_steps), quiet=quiet)


def _refuse_with_rebuild(seeds: int, small: bool, merge_steps: int | None) -> None:
    from tove_core.errors import ConfigError

    for option, given in (("--seeds", seeds != 1), ("--small", small), ("--merge-steps", merge_steps is not None)):
        if given:
            raise ConfigError(
                f"{option} is for the demo itself and was given with --rebuild-weights; leave one of them out"
            )
