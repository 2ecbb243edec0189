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
from tove_core.tower.base import ResizeMode
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
    write = write_hf if transformers else write_open_clip
    return write(model.tower, folder, resize_mode=_MODES[model.config.view], overwrite=overwrite)
