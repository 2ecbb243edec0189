"""Write a merged model: a CLIP folder anybody's code loads, and beside it a tove checkpoint with its decoder."""

from __future__ import annotations

from pathlib import Path

from tove_core.checkpoint import save, write_tower
from tove_core.folders import new_folder
from tove_core.hub.checkpoints import CHECKPOINT
from tove_core.model import ToveModel


def write_merged(model: ToveModel, folder: Path) -> None:
    """Write a model returned by `merge`; both forms are complete in themselves and refer to nothing outside.

    Args:
        folder: new; gets the files of an open_clip folder, or of a transformers one where the tower is
            transformers', and `checkpoint/`.

    Raises:
        CheckpointError: the folder exists already or cannot be written.
    """
    with new_folder(folder) as place:
        write_tower(model.tower, place / "clip")
        for file in sorted((place / "clip").iterdir()):
            file.rename(place / file.name)
        (place / "clip").rmdir()
        if model.decoder is not None:
            save(model, place / CHECKPOINT, full=True)
