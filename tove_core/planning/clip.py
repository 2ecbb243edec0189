"""The row of the CLIP: its architecture on meta, from open_clip's list, a local folder, or a fetched configuration."""

from __future__ import annotations

import torch

from tove_core.config import ClipConfig
from tove_core.errors import WeightsError
from tove_core.hub.download import on_disk
from tove_core.planning.experts import FLOAT32, ON_META
from tove_core.planning.figures import Figure, Part
from tove_core.planning.measure import parameters, run, tensor_bytes
from tove_core.tower.base import Tower
from tove_core.tower.load import load_tower


def clip_part(config: ClipConfig, batch: int) -> tuple[Part, Tower | None]:
    """Return the row of the CLIP and its tower on meta; None where its configuration is out of reach.

    Raises:
        ConfigError: the name, layer or size is not one the model has.
    """
    try:
        with torch.device("meta"):
            tower = load_tower(config, weights="random", device="meta")
    except WeightsError as error:
        why = Figure.unknown(" ".join(str(error).split()))
        return Part("clip", config.name, why, why, why, why, why), None
    pixels = torch.empty(batch, 3, *tower.input.size, device="meta")
    ran = run(lambda: tower(pixels))
    part = Part(
        part="clip",
        name=config.name,
        params=Figure(parameters(tower), ON_META),
        download=_download(config.name, parameters(tower)),
        weights=Figure(tensor_bytes(tower), f"in {config.dtype}"),
        activations=Figure.about(ran.peak, ON_META),
        flops=Figure(ran.flops // batch, ON_META),
    )
    return part, tower


def _download(name: str, params: int) -> Figure:
    try:
        repository = _repository(name)
    except WeightsError as error:
        return Figure.unknown(" ".join(str(error).split()))
    if repository is None:
        return Figure(0, "in a local folder, or random")
    repo, files = repository
    if any(on_disk(repo, file) for file in files):
        return Figure(0, "in the local cache")
    return Figure.about(FLOAT32 * params, "parameters x 4 bytes")


def _repository(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the hub repository of a CLIP and the files one of which is fetched; None: it lies on disk."""
    from pathlib import Path

    scheme, colon, rest = name.partition(":")
    match scheme if colon else "":
        case "hf-hub":
            return rest, ("open_clip_model.safetensors",)
        case "hf" if not Path(rest).expanduser().is_dir():
            return rest, ("model.safetensors", "model.safetensors.index.json")
        case "":
            from tove_core.tower.open_clip_source import WEIGHTS_FILE, tag_repository

            repo = tag_repository(name)
            return None if repo is None else (repo, (WEIGHTS_FILE,))
    return None
