"""Write a merged model: a CLIP folder anybody's code loads, and beside it a tove checkpoint with its decoder."""

from __future__ import annotations

from pathlib import Path

from tove_core.checkpoint import save, write_tower
from tove_core.config import MergeConfig
from tove_core.folders import new_folder
from tove_core.hub.checkpoints import CHECKPOINT
from tove_core.model import ToveModel
from tove_core.settings import write_config
from tove_core.spec import Frozen

MERGING = "merging.yaml"
"""Where a merged model's folder says how it came about."""


class Merging(Frozen):
    """How a merged model came about, and so whether it is the merged one or its control.

    Attributes:
        run: that it was made from.
        seed: of the order of the samples.
        limit: how many samples were to be taken at most; None: as many as the run says.
        samples: how many there were.
        merge: what was asked for, every key.
    """

    run: Path
    seed: int
    limit: int | None
    samples: int
    merge: MergeConfig


def write_merged(model: ToveModel, folder: Path, how: Merging | None = None) -> None:
    """Write a model returned by `merge`; both forms are complete in themselves and refer to nothing outside.

    Args:
        folder: new; gets the files of an open_clip folder, or of a transformers one where the tower is
            transformers', and `checkpoint/`.
        how: it came about, written as `merging.yaml`; None: that is written nowhere.

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
        if how is not None:
            write_config(how, place / MERGING)
