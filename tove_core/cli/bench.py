"""`tove bench`: comparisons over several seeds, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Compare on the embedded world; results are kept, so that a stopped bench goes on.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """Keep `fusion` a sub-command while it is the only one."""


@app.command()
def fusion(
    out: Annotated[Path, typer.Option(help="folder of the results")] = Path("runs/bench-fusion"),
    seeds: Annotated[str, typer.Option(help="comma list of seeds")] = "0,1,2",
    variants: Annotated[str | None, typer.Option(help="comma list; all when not given")] = None,
    small: Annotated[bool, typer.Option("--small", help="everything runs, nothing is learned")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Compare CLIP only, every single expert beside CLIP, uniform, concat and the gate, at equal size and steps."""
    from tove_core.demo import bench, world
    from tove_core.errors import ConfigError

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"seeds {seeds!r} is not a comma list of whole numbers such as 0,1,2") from None
    wanted = [name.strip() for name in variants.split(",")] if variants else None
    print(bench.run(out, numbers, wanted, size=world.SMALL if small else world.FULL, quiet=quiet))
