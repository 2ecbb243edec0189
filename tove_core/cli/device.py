"""Where a command computes, told where nobody said it and there was a choice."""

from __future__ import annotations

import typer

from tove_core import environment


def tell_unused_gpu(device: str | None) -> None:
    """Say on stderr that a GPU is there, where a command was given no device and therefore computes on the CPU.

    Only commands that are about to compute call it, because it imports torch; of several processes the first speaks.
    """
    if device is None and not environment.rank() and _has_gpu():
        typer.echo(
            "note: no --device was given, so this runs on the CPU; a GPU is there: --device cuda uses it", err=True
        )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
