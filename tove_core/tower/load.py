"""Loads the frozen CLIP that a configuration names."""

from __future__ import annotations

from typing import Literal

import torch

from tove_core.config import ClipConfig
from tove_core.tower.base import Tower
from tove_core.tower.source import Files, hub_repository, local_folder, package_folder

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_tower(
    config: ClipConfig,
    *,
    weights: Literal["pinned", "random"] = "pinned",
    seed: int = 0,
    device: str | torch.device | None = None,
    revision: str | None = None,
) -> Tower:
    """Load the CLIP tower `config.name`, frozen, in `config.dtype`.

    The name's scheme decides, before the first colon: `local-dir`, `hf-hub` (open_clip's layout), `hf` (transformers),
    `package` (a folder inside an installed package, in either layout); without one it is open_clip's `MODEL/TAG`.

    Args:
        config: name, layer, image size and dtype.
        weights: "random" builds the architecture alone and downloads no weights; for tests and counting.
        seed: decides random weights.
        device: where it goes; None: the CPU.
        revision: commit, where the name means a hub repository; None: the one that is pinned, else `main`.

    Raises:
        ConfigError: the name, layer or size is not one the model has.
        WeightsError: the weights are missing, pickled, truncated or do not fit.
    """
    scheme, colon, rest = config.name.partition(":")
    place = torch.device(device or "cpu")
    dtype = _DTYPES[config.dtype]
    match scheme if colon else "":
        case "local-dir":
            files, layout = local_folder(rest), "open_clip"
        case "hf-hub":
            files, layout = hub_repository(rest, revision), "open_clip"
        case "hf":
            files, layout = _folder_or_repository(rest, revision), "transformers"
        case "package":
            files = package_folder(rest)
            layout = "open_clip" if files.has("open_clip_config.json") else "transformers"
        case _:
            files, layout = None, "open_clip"
    # Both libraries take seconds to import; only the one that is needed is.
    if layout == "open_clip":
        from tove_core.tower import open_clip, open_clip_source

        source = (
            open_clip_source.from_tag(config.name, weights, revision)
            if files is None
            else open_clip_source.from_files(config.name, files, weights)
        )
        return open_clip.build_tower(
            source, layer=config.layer, image_size=config.image_size, seed=seed, dtype=dtype, device=place
        )
    from tove_core.tower import hf

    return hf.build_tower(
        config.name,
        files,  # type: ignore[arg-type]
        layer=config.layer,
        image_size=config.image_size,
        seed=seed if weights == "random" else None,
        dtype=dtype,
        device=place,
    )


def _folder_or_repository(reference: str, revision: str | None) -> Files:
    from pathlib import Path

    if Path(reference).expanduser().is_dir():
        return local_folder(reference)
    return hub_repository(reference, revision)
