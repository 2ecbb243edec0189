"""`tove caption` and `tove answer`: what a run says about images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.places import Run, opened
from tove_core.cli.runs import Device
from tove_core.errors import ConfigError, DataError
from tove_core.language.marks import IMAGE, wrong_marks

if TYPE_CHECKING:
    from torch import Tensor

    from tove_core.errors import ImageError

_WORLD = "package:tove_core.demo/"
"""Where the embedded world's CLIP lies."""


def caption(
    run: Run,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="image files")],
    beams: Annotated[int, typer.Option(min=1, help="beam search width")] = 1,
    device: Device = None,
) -> None:
    """Describe images."""
    _say(run, images, None, beams, device, False)


def answer(
    run: Run,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="image files")],
    question: Annotated[
        str, typer.Option(help="asked of every image; with <image> for each of several, of all of them together")
    ],
    together: Annotated[bool, typer.Option("--together", help="ask once, about all images together")] = False,
    beams: Annotated[int, typer.Option(min=1, help="beam search width")] = 1,
    device: Device = None,
) -> None:
    """Answer a question about each image, or about several together."""
    _say(run, images, question, beams, device, together or question.count(IMAGE) > 1)


def _say(run: str, images: list[Path], question: str | None, beams: int, device: str | None, together: bool) -> None:
    from tove_core.checkpoint import require_decoder
    from tove_core.model import ToveModel

    if question is not None and not question.strip():
        raise ConfigError("--question is empty; ask something")
    if question is not None and (fault := wrong_marks(question, len(images) if together else 1)) is not None:
        raise DataError(fault)
    decoded, broken = _decoded(images)
    if broken and (together or not decoded):  # a bad file is reported before anything is loaded
        raise broken[0]
    place = opened(run)
    require_decoder(place)
    tell_unused_gpu(device)
    model = ToveModel.from_pretrained(place, device=device)
    if model.provenance.clip.reference.startswith(_WORLD):
        typer.echo(
            "note: this model's CLIP has only seen rendered scenes; about photographs it knows nothing", err=True
        )
    names = [str(path) for path in images if str(path) in decoded]
    shown = [[decoded[name]] for name in names]
    if together:
        names, shown = [" ".join(map(str, images))], [[decoded[str(path)] for path in images]]
    for name, pixels in zip(names, shown, strict=True):
        said = (
            model.caption(pixels, num_beams=beams)
            if question is None
            else model.answer([pixels], question, num_beams=beams)
        )
        print(f"{name}: {said[0]}")
    if broken:
        raise DataError(
            f"{len(broken)} of {len(images)} images cannot be read (first: {broken[0]}); repair them or leave them out"
        )


def _decoded(images: list[Path]) -> tuple[dict[str, Tensor], list[ImageError]]:
    """Return the pixels of those images that can be read, by path, and what is wrong with each of the others."""
    from tove_core.errors import ImageError
    from tove_core.hub.images import read_image

    found: dict[str, Tensor] = {}
    broken: list[ImageError] = []
    for path in images:
        try:
            found[str(path)] = read_image(path)
        except ImageError as error:
            broken.append(error)
    return found, broken
