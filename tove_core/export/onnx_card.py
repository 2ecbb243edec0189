"""Says in a small JSON file what an exported ONNX takes and gives, so that a program can feed it without tove."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tove_core.export.onnx_graph import OPSET, data_file
from tove_core.export.onnx_sides import TextSide
from tove_core.export.onnx_text import TOKENIZER_FILE
from tove_core.hub.view import View
from tove_core.licenses import terms_of
from tove_core.tower.base import Tower

CARD_FILE = "tove_onnx.json"
IMAGE_FILE = "preprocessor_config.json"
"""The same of images, as transformers and transformers.js read it."""
BATCH = "batch"


def card(inside: Path, tower: Tower, view: View, dtype: str, clip: str, texts: TextSide | None) -> dict[str, Any]:
    """Return what `tove_onnx.json` holds.

    Args:
        inside: the folder, with its graphs.
        tower: what was written.
        view: the region of an image that is seen.
        dtype: what weights are stored in.
        clip: the name a configuration gives the CLIP.
        texts: the text side, where one was written.
    """
    height, width = tower.input.size
    outputs: dict[str, list[Any]] = {"tokens": [BATCH, tower.tokens, tower.width]}
    if tower.embed_width is not None:
        outputs["embedding"] = [BATCH, tower.embed_width]
    terms = terms_of(clip)
    return {
        "format": "onnx",
        "opset": OPSET,
        "weights": dtype,
        "license": terms and terms.license,
        "vision": {
            **_files(inside / "vision.onnx"),
            "inputs": {"pixels": {"dtype": "float32", "shape": [BATCH, 3, height, width]}},
            "outputs": {name: {"dtype": "float32", "shape": shape} for name, shape in outputs.items()},
            "grid": list(tower.grid),
            "block": tower.block + 1,
            "blocks": tower.blocks,
        },
        "image": {
            "height": height,
            "width": width,
            "view": view,
            "interpolation": tower.input.interpolation,
            "mean": list(tower.input.mean),
            "std": list(tower.input.std),
        },
        "text": None if texts is None else _text(inside, tower, texts),
    }


def _text(inside: Path, tower: Any, texts: TextSide) -> dict[str, Any]:
    bias = getattr(tower.model, "logit_bias", None)
    return {
        **_files(inside / "text.onnx"),
        "tokenizer": TOKENIZER_FILE,
        "inputs": {"ids": {"dtype": "int64", "shape": [BATCH, texts.example().shape[1]]}},
        "outputs": {"embedding": {"dtype": "float32", "shape": [BATCH, tower.text_width]}},
        # Logits are scale · (unit image embedding · unit text embedding) + bias.
        "scale": float(tower.model.logit_scale.exp()),
        "bias": 0.0 if bias is None else float(bias),
    }


def _files(graph: Path) -> dict[str, Any]:
    beside = data_file(graph)
    return {"file": graph.name, "data": beside and beside.name}
