"""Writes a tower as an open_clip folder: `open_clip.create_model("local-dir:FOLDER")` gives the same model."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import Transformer, VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

from tove_core.errors import CheckpointError, ConfigError
from tove_core.export.compare import ExportReport, difference, probe_ids, probe_pixels, versions
from tove_core.folders import new_folder
from tove_core.tower.activation import activation_of
from tove_core.tower.base import ResizeMode, Tower
from tove_core.tower.open_clip import OpenClipTower
from tove_core.tower.open_clip_source import CONFIG_FILE, WEIGHTS_FILE

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""What tokenizers of transformers may consist of."""


def write_open_clip(
    tower: Tower, folder: str | Path, *, resize_mode: ResizeMode | None = None, overwrite: bool = False
) -> ExportReport:
    """Write `tower` as an open_clip folder and prove that open_clip loads it back as the same function.

    Args:
        tower: an open_clip tower, frozen or trained.
        folder: where it goes; complete or not there at all.
        resize_mode: how open_clip's transform shall bring images to size; None: as the tower's own transform. What is
            padded for it gets the grey nearest to the mean colour.
        overwrite: replace an existing folder.

    Raises:
        ConfigError: the tower is not open_clip's, or cannot be described to open_clip.
        CheckpointError: `folder` exists, or what was written does not compute the same; it is then not there.
    """
    if not isinstance(tower, OpenClipTower):
        raise ConfigError(f"{tower.reference!r} is not an open_clip model; export it with write_hf")
    # In float32 on the CPU, so that both sides of the comparison compute alike.
    source = copy.deepcopy(tower.model).to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)
    config = {
        "model_cfg": built_cfg(tower),
        "preprocess_cfg": {
            "mean": list(tower.input.mean),
            "std": list(tower.input.std),
            "interpolation": tower.input.interpolation,
            "resize_mode": resize_mode or tower.resize_mode,
        },
    }
    if (resize_mode or tower.resize_mode) == "longest":
        own = tower.fill if resize_mode is None else None
        config["preprocess_cfg"]["fill_color"] = _grey(own or tower.input.mean)
    with new_folder(folder, overwrite=overwrite) as inside:
        (inside / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        state = {k: v.detach().cpu().contiguous() for k, v in tower.model.state_dict().items()}
        save_file(state, inside / WEIGHTS_FILE)
        copy_tokenizer(tower, inside)
        report = _load_back(source, tower, inside)
        report.save(inside)
    return report


def _grey(colour: Sequence[float]) -> int:
    """Return the grey nearest to a colour in 0..1: of another than grey, open_clip cannot pad an image that is grey."""
    return round(255 * sum(colour) / len(colour))


def built_cfg(tower: OpenClipTower) -> dict[str, Any]:
    """Return open_clip's configuration of the tower, with the activation it really computes.

    Raises:
        ConfigError: image and text tower differ in it, which open_clip's one flag cannot say.
    """
    cfg = copy.deepcopy(tower.model_cfg)
    found = {activation_of(b.mlp.gelu for b in t.resblocks) for t in native_transformers(tower.model)}
    if "quick_gelu" in found and len(found) > 1:
        raise ConfigError(
            f"image and text tower of {tower.reference!r} use {sorted(found)}, but open_clip has one flag for both; "
            "export it with write_hf"
        )
    # timm's image towers and transformers' text towers ignore the flag, and so does this.
    cfg["quick_gelu"] = found == {"quick_gelu"}
    return cfg


def native_transformers(model: nn.Module) -> list[Any]:
    """Return open_clip's own transformers in `model`: those of the image and the text tower that are not borrowed."""
    visual: Any = model.visual
    text: Any = getattr(model, "text", model)
    found = [visual.transformer] if isinstance(visual, VisionTransformer) else []
    if isinstance(getattr(text, "transformer", None), Transformer):
        found.append(text.transformer)
    return found


def copy_tokenizer(tower: OpenClipTower, inside: Path) -> None:
    """Put the files of the tower's tokenizer into `inside`, where it needs any beside what open_clip brings.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
    """
    if not tower.model_cfg["text_cfg"].get("hf_tokenizer_name"):
        return
    if tower.files is not None and tower.files.folder is not None:
        for name in TOKENIZER_FILES:
            if tower.files.has(name):
                shutil.copyfile(tower.files.folder / name, inside / name)
        return
    tokenizer = tower.tokenizer
    if isinstance(tokenizer, HFTokenizer):
        tokenizer.save_pretrained(inside)


def text_probe(tower: OpenClipTower) -> Tensor:
    """Return token ids [3, L] for comparing text towers."""
    text = {**vars(open_clip.CLIPTextCfg()), **tower.model_cfg["text_cfg"]}
    end = text["eos_id"] if text["pool_type"] == "eos" else text["vocab_size"] - 1
    return probe_ids(int(text["context_length"]), int(text["vocab_size"]), int(end))


def _load_back(source: nn.Module, tower: OpenClipTower, inside: Path) -> ExportReport:
    try:
        loaded: Any = open_clip.create_model(f"local-dir:{inside}", pretrained_text=False).eval()
        # Frozen attention runs a fused path that rounds differently; both sides must take the same one.
        loaded.requires_grad_(False)
    except (RuntimeError, ValueError, TypeError) as error:
        first = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"open_clip cannot load the export of {tower.reference!r} ({first}); nothing was written"
        ) from error
    pixels, ids = probe_pixels(tower.input.size), text_probe(tower)
    with torch.no_grad():
        image, image_scale = difference("image embeddings", _image(source, pixels), _image(loaded, pixels))
        text, text_scale = difference("text embeddings", _text(source, ids), _text(loaded, ids))
    return ExportReport(
        format="open_clip",
        reference=tower.reference,
        activation=tower.activation,
        parameters=sum(p.numel() for p in loaded.parameters()),
        image_difference=image,
        image_scale=image_scale,
        text_difference=text,
        text_scale=text_scale,
        libraries=versions("tove-core", "torch", "open_clip_torch"),
    )


def _image(model: Any, pixels: Tensor) -> Tensor:
    out = model.encode_image(pixels, normalize=False)
    return out[0] if isinstance(out, tuple) else out


def _text(model: Any, ids: Tensor) -> Tensor:
    out = model.encode_text(ids, normalize=False)
    return out[0] if isinstance(out, tuple) else out
