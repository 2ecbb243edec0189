"""Folders that a configuration names by a path from the working directory, made absolute before they are recorded.

A checkpoint is loaded from other working directories than the one it was made in. No torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tove_core.config import ExpertConfig, ModelConfig
from tove_core.plugins import Resolved


def absolute(text: str) -> str:
    """Return the path of what lies at a path from the working directory; any other text, also `~/x`, as it is."""
    path = Path(text)
    return str(path.absolute()) if text and not path.is_absolute() and path.exists() else text


def with_absolute_places(config: ModelConfig) -> ModelConfig:
    """Return the configuration with the folders of CLIP and language model, and the projector's file, absolute.

    The licence policy goes on to know both by the names they had.
    """
    scheme, colon, rest = config.clip.name.partition(":")
    folder = colon and scheme in ("local-dir", "hf")
    clip = config.clip.model_copy(update={"name": f"{scheme}:{absolute(rest)}" if folder else config.clip.name})
    moved, decoder = {config.clip.name: clip.name}, config.decoder
    if decoder is not None:
        projector = decoder.projector and absolute(decoder.projector)
        decoder = decoder.model_copy(update={"name": absolute(decoder.name), "projector": projector})
        moved[config.decoder.name] = decoder.name  # type: ignore[union-attr]
    moved = {old: new for old, new in moved.items() if old != new}
    licenses = config.licenses and config.licenses.renamed(moved)
    return config.model_copy(update={"clip": clip, "decoder": decoder, "licenses": licenses})


def with_clip_in(config: ModelConfig, folder: Path) -> ModelConfig:
    """Return the configuration with the CLIP that tove wrote into a folder, whichever library reads it there.

    The licence policy goes on to know it by the name it had.
    """
    scheme = "hf" if (folder / "config.json").is_file() else "local-dir"
    clip = config.clip.model_copy(update={"name": f"{scheme}:{folder.absolute()}"})
    licenses = config.licenses and config.licenses.renamed({config.clip.name: clip.name})
    return config.model_copy(update={"clip": clip, "licenses": licenses})


def with_absolute_member(wanted: ExpertConfig, found: Resolved) -> tuple[ExpertConfig, Resolved]:
    """Return both with the member of a family that a folder describes, `hf-backbone:./x`, named by the absolute one.

    What the model calls the expert stays.
    """
    weights, asked = found.spec.weights, found.variant or ""
    place = absolute(asked)
    if weights is None or weights.folder is None or place == asked:
        return wanted, found
    spec = found.spec.model_copy(update={"weights": weights.model_copy(update={"folder": place})})
    name = wanted.name.removesuffix(asked) + place
    return wanted.model_copy(update={"name": name, "alias": wanted.key}), replace(found, variant=place, spec=spec)
