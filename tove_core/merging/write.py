"""Write a merged model: an open_clip folder anybody's code loads, and beside it a tove checkpoint with its decoder."""

from __future__ import annotations

from pathlib import Path

from tove_core.checkpoint import save
from tove_core.export.open_clip_dir import write_open_clip
from tove_core.folders import new_folder
from tove_core.model import ToveModel
from tove_core.training.run import CHECKPOINT


def write_merged(model: ToveModel, folder: Path) -> None:
    """Write a model returned by `merge`; both forms are complete in themselves and refer to nothing outside.

    Args:
        folder: new; gets `open_clip_config.json` and `open_clip_model.safetensors`, and `checkpoint/`.
    """
    with new_folder(folder) as place:
        write_open_clip(model.tower, place / "clip")
        for file in sorted((place / "clip").iterdir()):
            file.rename(place / file.name)
        (place / "clip").rmdir()
        if model.decoder is not None:
            save(model, place / CHECKPOINT, full=True)
