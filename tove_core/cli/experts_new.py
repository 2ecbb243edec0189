"""`tove experts new`: write a project for an expert of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tove_core.template import write_project


def new_expert(
    name: Annotated[str, typer.Argument(help="the expert's name, lower-case words joined by hyphens")],
    out: Annotated[Path | None, typer.Option(help="where the project goes; ./tove-expert-NAME if not given")] = None,
) -> None:
    """Write a plugin with one small working expert, its tests and its packaging."""
    folder = write_project(name, out)
    print(f"wrote {folder}, an expert named {name} that works; next:\n")
    print(f"  pip install -e {folder}")
    print(f"  tove experts check {name}")
    print(f"  pip install pytest && pytest {folder}")
    print(f"\nthen make {folder}/src/tove_expert_{name.replace('-', '_')}/adapter.py yours")
