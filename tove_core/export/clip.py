"""Writes the CLIP of a model without experts, as the model sees images."""

from __future__ import annotations

from pathlib import Path

from tove_core.errors import ConfigError
from tove_core.export.compare import ExportReport
from tove_core.export.hf_dir import write_hf
from tove_core.export.llava import require_plain
from tove_core.export.open_clip_dir import write_open_clip
from tove_core.hub.view import View
from tove_core.model import ToveModel
from tove_core.tower.base import ResizeMode, Tower
from tove_core.tower.open_clip import OpenClipTower

_MODES: dict[View, ResizeMode] = {"squash": "squash", "crop": "shortest", "pad": "longest"}


def write_clip(
    model: ToveModel, folder: str | Path, *, transformers: bool = True, overwrite: bool = False
) -> ExportReport:
    """Write a model's tower as a CLIP folder whose image processor shows it the region that the model sees.

    Args:
        model: without experts, such as `merge` returns.
        folder: where it goes; complete or not there at all.
        transformers: for transformers, else for open_clip.
        overwrite: replace an existing folder.

    Raises:
        ConfigError: the model has experts, or the format cannot express its tower or its view.
        CheckpointError: `folder` exists, or what was written does not compute the same; it is then not there.
    """
    require_plain(model)
    if transformers and model.config.view == "pad":
        others = "--to open-clip or --to llava" if isinstance(model.tower, OpenClipTower) else "--to llava"
        raise ConfigError(
            f"the model sees images with view 'pad', and transformers' CLIP processor cannot pad; export it {others}"
        )
    if not transformers and stretches(model.tower, model.config.view):
        height, width = model.tower.input.size
        raise ConfigError(
            f"the model sees a square of each image (view {model.config.view!r}) stretched to {height}x{width} pixels, "
            "which open_clip's transform cannot; export it --to onnx, whose tove_onnx.json says how images are prepared"
        )
    write = write_hf if transformers else write_open_clip
    return write(model.tower, folder, resize_mode=_MODES[model.config.view], overwrite=overwrite)


def stretches(tower: Tower, view: View) -> bool:
    """Tell whether a square of an image is brought to a size that is not square, which no processor of others does."""
    return view != "squash" and len(set(tower.input.size)) > 1
