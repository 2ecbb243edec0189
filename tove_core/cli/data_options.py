"""The options that name a data set, alike in every command that reads one. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataPath = Annotated[
    Path | None, typer.Option("--data", metavar="PATH", help="file or folder of the data set; the run's if not given")
]
Reader = Annotated[str | None, typer.Option(metavar="NAME", help="what reads it; the run's reader if not given")]
Split = Annotated[str | None, typer.Option(help="which part of the data set; test where it has parts")]
Images = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="folder or tar archive of its images; beside --data if not given"),
]
SetData = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key of the data: max_broken=0.1")
]
