"""Resolves an open_clip name (MODEL/TAG, local folder, hub repository) to its configuration and safetensors file."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import open_clip

from tove_core.errors import ConfigError, WeightsError
from tove_core.hub.reference import is_hub_id
from tove_core.tower.source import Files, did_you_mean, hub_repository

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
# What open_clip calls the pickled form of WEIGHTS_FILE; a repository named without a file means it.
_PICKLED_FILE = "open_clip_pytorch_model.bin"

LAYOUTS = {"local-dir": CONFIG_FILE, "hf": "config.json"}
"""The scheme for a local folder, by the file that tells it."""

OPENAI = {
    "openai/clip-vit-base-patch32": "ViT-B-32/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336/openai",
}
"""OpenAI's CLIPs by their hub ids, which are in transformers' layout, and by open_clip's names."""

_PREPROCESS_DEFAULT: dict[str, Any] = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


@dataclass(frozen=True)
class Source:
    """Where one open_clip model comes from.

    Attributes:
        reference: the name as configured.
        model_cfg: open_clip's configuration of the architecture.
        preprocess_cfg: mean, std, interpolation, resize_mode, fill_color; open_clip's defaults where a file is silent.
        files: the folder or repository of the model's files; None for a built-in architecture.
        weights: the safetensors file; None for random weights.
        revision: the commit of the hub repository it is from; None where it is from none.
    """

    reference: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    files: Files | None
    weights: Path | None
    revision: str | None = None


def with_defaults(preprocess_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return what open_clip's transform is made of, each its default where `preprocess_cfg` is silent."""
    merged = {key: value for key, value in preprocess_cfg.items() if key in _PREPROCESS_DEFAULT and value is not None}
    return _PREPROCESS_DEFAULT | merged


def from_tag(name: str, weights: Literal["pinned", "random"], revision: str | None = None) -> Source:
    """Resolve `MODEL/TAG` of open_clip's registry; the tag `random` means no weights. `revision`: see `load_tower`.

    Raises:
        ConfigError: there is no such model or tag.
        WeightsError: the tag has no safetensors file.
    """
    model, _, tag = name.partition("/")
    cfg = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if cfg is None:
        raise ConfigError(_no_model(name))
    if tag == "random":
        return Source(name, cfg, dict(_PREPROCESS_DEFAULT), None, None)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise ConfigError(
            f"open_clip model {model!r} has no tag {tag!r}; {did_you_mean(tag, tags)} "
            f"(the tag 'random' builds it without weights)"
        )
    published: dict[str, Any] = open_clip.get_pretrained_cfg(model, tag)
    # The architecture file of ViT-B-16 says GELU although its openai weights were trained with QuickGELU.
    if "quick_gelu" in published:
        cfg["quick_gelu"] = bool(published["quick_gelu"])
    if weights == "random":
        return Source(name, cfg, with_defaults(published), None, None)
    repository = hub_repository(_repository(name, str(published.get("hf_hub") or "")), revision)
    path = _tag_weights(name, repository)
    return Source(name, cfg, with_defaults(published), None, path, repository.commit)


def _no_model(name: str) -> str:
    """Say what a name that is no `MODEL/TAG` was probably meant as: a folder, a hub id, or another model."""
    model, known = name.partition("/")[0], open_clip.list_models()
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder_without_scheme(name, path)
    if path.is_file():
        return f"clip {name!r} is a file where a folder is wanted; give 'local-dir:FOLDER', the folder that holds it"
    if path.is_absolute() or name.startswith("."):
        return f"clip {name!r} is a path at which there is no folder; give 'local-dir:FOLDER' or 'hf:FOLDER'"
    if not is_hub_id(name) or get_close_matches(model.lower(), [one.lower() for one in known]):
        return f"open_clip has no model {model!r}; {did_you_mean(model, known)}"
    tags = _tags_of(name)
    if tags and name not in OPENAI:
        return f"clip {name!r} is a hub id without its scheme; write 'hf-hub:{name}' or open_clip's {tags[0]!r}"
    also = f" or open_clip's {tags[0]!r}" if tags else f", or 'hf-hub:{name}' if its files are open_clip's"
    return f"open_clip has no model {model!r}; write 'hf:{name}' for a hub id of transformers{also}"


def _tags_of(repo: str) -> list[str]:
    """Return the names `MODEL/TAG` under which open_clip has the weights of a hub repository."""
    if repo in OPENAI:
        return [OPENAI[repo]]
    pairs = open_clip.list_pretrained()
    hubs = {f"{model}/{tag}": str(open_clip.get_pretrained_cfg(model, tag).get("hf_hub") or "") for model, tag in pairs}
    return [name for name, hub in hubs.items() if hub.rstrip("/") == repo]


def _folder_without_scheme(name: str, folder: Path) -> str:
    schemes = [scheme for scheme, file in LAYOUTS.items() if (folder / file).is_file()]
    if not schemes:
        return (
            f"clip {name!r} is a folder that holds neither {' nor '.join(LAYOUTS.values())}; give the folder of a "
            "saved CLIP, as 'local-dir:FOLDER' (open_clip) or 'hf:FOLDER' (transformers)"
        )
    written = " or ".join(repr(f"{scheme}:{name}") for scheme in schemes)
    return f"clip {name!r} is a folder without its scheme; write {written}"


def from_files(reference: str, files: Files, weights: Literal["pinned", "random"]) -> Source:
    """Resolve a folder or repository in open_clip's layout: a configuration and one safetensors file.

    Raises:
        ConfigError: the configuration is not open_clip's.
        WeightsError: the configuration or the weights are not there, or only as pickle.
    """
    config = files.json(CONFIG_FILE)
    cfg, preprocess = config.get("model_cfg"), config.get("preprocess_cfg", {})
    if not isinstance(cfg, dict) or not isinstance(preprocess, dict) or not {"vision_cfg", "text_cfg"} <= cfg.keys():
        raise ConfigError(
            f"{CONFIG_FILE!r} of {files.where} has no model_cfg with vision_cfg and text_cfg; "
            "write it with open_clip or tove's export"
        )
    path = None if weights == "random" else files.weights(WEIGHTS_FILE)
    return Source(reference, copy.deepcopy(cfg), with_defaults(preprocess), files, path, files.commit)


def tag_repository(name: str) -> str | None:
    """Return the hub repository that holds the safetensors file `WEIGHTS_FILE` of `MODEL/TAG`; None: tag `random`.

    Raises:
        WeightsError: there is none.
    """
    model, _, tag = name.partition("/")
    published = {} if tag == "random" else open_clip.get_pretrained_cfg(model, tag)
    return None if tag == "random" else _repository(name, str(published.get("hf_hub") or ""))


def _repository(name: str, hub: str) -> str:
    repo, _, file = hub.rpartition("/")
    if not repo or file not in {"", _PICKLED_FILE, WEIGHTS_FILE}:
        raise WeightsError(
            f"the weights of {name!r} are published as {file or 'a web address'!r} only, and tove reads safetensors; "
            "convert them once with open_clip and load the folder as 'local-dir:FOLDER'"
        )
    return repo


def _tag_weights(name: str, repository: Files) -> Path:
    try:
        return repository.get(WEIGHTS_FILE)
    except WeightsError as error:
        raise WeightsError(
            f"the weights of {name!r} cannot be had: {error}; or give a copy as 'local-dir:FOLDER'"
        ) from error
