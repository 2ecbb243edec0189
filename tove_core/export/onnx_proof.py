"""Runs an exported ONNX with onnxruntime and compares it with the model it was written from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from tove_core.errors import CheckpointError
from tove_core.export.compare import difference, probe_pixels
from tove_core.export.llava_proof import ROUNDING_TOLERANCE, probe_image
from tove_core.export.onnx_sides import ImageSide, Side, TextSide
from tove_core.hub.view import Preprocessor, View
from tove_core.tower.base import Tower

TOLERANCE = 1e-4
"""Largest difference relative to the largest value: both compute in float32, by different implementations of operators.

The closest thing that could be wrong, GELU for its tanh form, is above it.
"""
BATCHES = (1, 2, 5)
TEXTS = (
    "a photo of a cat",
    "Two red cubes, left of a BLUE ball!",
    "",
    "12 h 30: naïve café – straße",
    "猫と犬",
    "it's  what we'll\tsee\nnext",
    "a " * 200,
    "don't 🙂",
)
"""As many as there are images in all batches."""

Found = tuple[float, float]
"""The largest absolute difference, and the largest absolute value of the source's."""


@dataclass(frozen=True)
class Proof:
    """What was found; None for what there is not."""

    tokens: Found
    image: Found | None
    text: Found | None


def prove(folder: Path, image: ImageSide, texts: TextSide | None, view: View) -> Proof:
    """Check the graphs and compare their outputs with those of the modules they were traced from.

    Raises:
        CheckpointError: a graph is not valid, cannot be run, or differs.
    """
    found = _compared(folder / "vision.onnx", image, probe_images(image.tower, view), TOLERANCE)
    if texts is None:
        return Proof(found["tokens"], found.get("embedding"), None)
    ids = torch.tensor(texts.tower.token_ids(list(TEXTS)))
    read = _compared(folder / "text.onnx", texts, ids, TOLERANCE)
    # The tower's own way to texts may add a mask, of which the graph knows nothing.
    whole, (alone,) = texts.tower.embed_text(TEXTS), _run_source(texts, ids)
    difference("text embeddings", whole, alone, TOLERANCE)
    return Proof(found["tokens"], found.get("embedding"), read["embedding"])


def prove_rounding(folder: Path, image: ImageSide, view: View) -> float:
    """Return how far tokens are from those of the model before its weights were rounded to float16.

    Raises:
        CheckpointError: too far.
    """
    tolerance = ROUNDING_TOLERANCE[torch.float16]
    return _compared(folder / "vision.onnx", image, probe_images(image.tower, view), tolerance)["tokens"][0]


def probe_images(tower: Tower, view: View) -> Tensor:
    """Return fixed images [8, 3, H, W] as the tower takes them: noise, ramps, and a picture seen through the view."""
    picture = probe_image(tower)
    turned = (ImageOps.mirror(picture), ImageOps.flip(picture), ImageOps.invert(picture))
    strong = Image.blend(picture, ImageOps.posterize(picture, 2), 0.5)
    seen = Preprocessor({"clip": tower.input}, view)([picture, *turned, strong])["clip"]
    return torch.cat([seen[:1], probe_pixels(tower.input.size), seen[1:]])


def _compared(path: Path, side: Side, given: Tensor, tolerance: float) -> dict[str, Found]:
    """Return for each output the differences over all batches."""
    session = _session(path)
    names = [one.name for one in session.get_outputs()]
    if names != list(side.gives):
        raise CheckpointError(f"{path.name} gives {names} where {list(side.gives)} were written; report this as a bug")
    theirs = [_run(session, side.given, batch) for batch in _batches(given)]
    ours = [_run_source(side, batch) for batch in _batches(given)]
    found = {}
    for place, name in enumerate(names):
        source, loaded = (torch.cat([batch[place] for batch in one]) for one in (ours, theirs))
        found[name] = difference(f"{name} of {path.name}", source, loaded, tolerance)
    return found


def _batches(given: Tensor) -> Iterator[Tensor]:
    yield from given.split(list(BATCHES))


@torch.no_grad()
def _run_source(side: Side, given: Tensor) -> tuple[Tensor, ...]:
    return side(given)


def _session(path: Path) -> Any:
    import onnx
    import onnxruntime

    try:
        # By its path: what is larger than 2 GiB cannot be handed over as a whole.
        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise _unusable(path, error) from error


def _run(session: Any, name: str, batch: Tensor) -> list[Tensor]:
    try:
        return [torch.from_numpy(one) for one in session.run(None, {name: batch.numpy()})]
    except Exception as error:  # as above
        raise _unusable(Path(f"{name} of the ONNX"), error) from error


def _unusable(path: Path, error: Exception) -> CheckpointError:
    first = " ".join(str(error).split())[:300]
    return CheckpointError(
        f"onnxruntime cannot use {path.name} ({type(error).__name__}: {first}); nothing was written, choose another "
        "CLIP, or report this as a bug"
    )
