"""Writes the CLIP of a model without experts as ONNX, which runs without Python, PyTorch and tove."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from tove_core.errors import ConfigError
from tove_core.export.clip import stretches
from tove_core.export.compare import REPORT_FILE, versions
from tove_core.export.llava import require_plain
from tove_core.export.onnx_card import CARD_FILE, IMAGE_FILE, card
from tove_core.export.onnx_graph import OPSET, write_graph
from tove_core.export.onnx_proof import TEXTS, prove, prove_rounding
from tove_core.export.onnx_sides import ImageSide, TextSide
from tove_core.export.onnx_text import save_tokenizer, why_no_text
from tove_core.folders import new_folder
from tove_core.hub.view import View
from tove_core.model import ToveModel
from tove_core.tower.base import Tower

Precision = Literal["float32", "float16"]
"""What weights are stored in; everything is computed in float32."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxReport:
    """What was written and how far it is from its source. Scales are the largest absolute values of the source's.

    Attributes:
        format: "onnx".
        reference: name of the CLIP.
        view: region of an image that is seen.
        dtype: precision of the weights that are stored.
        opset: of ONNX's operators.
        parameters: number of weights in all files.
        token_difference: largest absolute difference of tokens, of weights rounded alike.
        token_scale: of those tokens.
        image_difference: the same for image embeddings; None where the tower has none.
        image_scale: of those embeddings.
        text_difference: the same for text embeddings; None where no text side was written.
        text_scale: of those embeddings.
        rounding_difference: of tokens, the model computed with its weights before they were rounded to `dtype`.
        text_left_out: why no text side was written, in words; None where it was.
        libraries: versions of what wrote it.
    """

    format: str
    reference: str
    view: str
    dtype: str
    opset: int
    parameters: int
    token_difference: float
    token_scale: float
    image_difference: float | None
    image_scale: float | None
    text_difference: float | None
    text_scale: float | None
    rounding_difference: float
    text_left_out: str | None
    libraries: dict[str, str]

    def save(self, folder: Path) -> None:
        """Write the report into `folder`."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def write_onnx(
    model: ToveModel, folder: str | Path, *, dtype: Precision = "float32", overwrite: bool = False
) -> OnnxReport:
    """Write a model's tower as `vision.onnx` and, where it has a text side, `text.onnx` with its tokenizer.

    Before it is there onnxruntime runs it on the CPU, in batches of several sizes, and its tokens and embeddings are
    compared with the model's. This takes a copy of the tower in float32, with `dtype="float16"` two.

    Args:
        model: without experts, such as `merge` returns.
        folder: where it goes; complete or not there at all.
        dtype: what the weights are stored in. "float16" halves the files; everything is computed in float32 still.
        overwrite: replace an existing folder.

    Raises:
        ConfigError: the model has experts, `dtype` is another, or packages of the extra `onnx` are missing.
        CheckpointError: `folder` exists, or what was written does not compute the same; it is then not there.
    """
    if dtype not in get_args(Precision):
        raise ConfigError(f"dtype is {dtype!r}, but weights are stored in ONNX as float32 or float16; choose one")
    require_onnx()
    require_plain(model)
    tower = _alone(model.tower)
    stored = _rounded(tower) if dtype == "float16" else tower
    with new_folder(folder, overwrite=overwrite) as inside:
        report = _fill(inside, stored, tower, model, dtype)
        report.save(inside)
    return report


def require_onnx() -> None:
    """Refuse where packages that write and run ONNX are missing, before work is done whose result they should write.

    Raises:
        ConfigError: they are not installed.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"an ONNX export needs {', '.join(missing)}, which {verb} not installed; run pip install 'tove-core[onnx]'"
        )


def _fill(inside: Path, stored: Tower, tower: Tower, model: ToveModel, dtype: Precision) -> OnnxReport:
    half, view = dtype == "float16", model.config.view
    image, texts = ImageSide(stored), None
    parameters = write_graph(image, image.example(), inside / "vision.onnx", half=half)
    left_out = why_no_text(stored) or save_tokenizer(stored, TEXTS, inside)
    if left_out is None:
        texts = TextSide(stored)
        parameters += write_graph(texts, texts.example(), inside / "text.onnx", half=half)
    _describe(inside, stored, view, dtype, model.config.clip.name, texts)
    found = prove(inside, image, texts, view)
    rounding = prove_rounding(inside, ImageSide(tower), view) if half else 0.0
    return OnnxReport(
        format="onnx",
        reference=tower.reference,
        view=view,
        dtype=dtype,
        opset=OPSET,
        parameters=parameters,
        token_difference=found.tokens[0],
        token_scale=found.tokens[1],
        image_difference=found.image and found.image[0],
        image_scale=found.image and found.image[1],
        text_difference=found.text and found.text[0],
        text_scale=found.text and found.text[1],
        rounding_difference=rounding,
        text_left_out=left_out,
        libraries=versions("tove-core", "torch", *_PACKAGES),
    )


def _describe(inside: Path, tower: Tower, view: View, dtype: str, clip: str, texts: TextSide | None) -> None:
    from tove_core.export.llava_processor import image_settings

    files = {CARD_FILE: card(inside, tower, view, dtype, clip, texts)}
    if not stretches(tower, view):
        files[IMAGE_FILE] = image_settings(tower, view)
    for name, content in files.items():
        (inside / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _alone(tower: Tower) -> Tower:
    """Return a frozen copy that computes in float32 on the CPU."""
    return copy.deepcopy(tower).to(device="cpu", dtype=torch.float32).freeze()


def _rounded(tower: Tower) -> Tower:
    """Return a copy whose weights have values that float16 holds, as float32."""
    twin = copy.deepcopy(tower)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(parameter.half())
    return twin
