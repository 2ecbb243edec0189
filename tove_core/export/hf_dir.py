"""Writes a tower as a transformers folder that `CLIPModel`, `CLIPVisionModel` and `CLIPProcessor` read."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, PreTrainedModel, PreTrainedTokenizerBase, SiglipModel

from tove_core.config import ClipConfig
from tove_core.errors import CheckpointError, ConfigError
from tove_core.export.compare import ExportReport, difference, probe_ids, probe_pixels, versions
from tove_core.export.hf_convert import check_form, to_config, to_state
from tove_core.export.open_clip_dir import TOKENIZER_FILES, text_probe
from tove_core.folders import new_folder
from tove_core.hub.bars import without_bars
from tove_core.tower.base import ResizeMode, Tower
from tove_core.tower.hf import HfTower
from tove_core.tower.load import load_tower
from tove_core.tower.open_clip import OpenClipTower

_RESAMPLE = {"bilinear": 2, "bicubic": 3}


def write_hf(
    tower: Tower, folder: str | Path, *, resize_mode: ResizeMode | None = None, overwrite: bool = False
) -> ExportReport:
    """Write `tower` as a transformers folder and prove that transformers loads it back as the same function.

    A transformers tower is written as it is; an open_clip tower must have OpenAI's form (class token, learned
    positions, plain blocks) and becomes a `CLIPModel`, with its tokenizer.

    Args:
        tower: frozen or trained.
        folder: where it goes; complete or not there at all.
        resize_mode: how the image processor shall bring images to size; None: as the tower's own transform.
        overwrite: replace an existing folder.

    Raises:
        ConfigError: `CLIPModel` cannot express the tower, or `folder` exists.
        CheckpointError: `folder` exists, or what was written does not compute the same; it is then not there.
    """
    mode = resize_mode or tower.resize_mode
    if mode == "longest":
        raise ConfigError("transformers' CLIP processor cannot pad; choose resize_mode 'squash' or 'shortest'")
    if isinstance(tower, OpenClipTower):
        check_form(tower.model, tower.reference)
    elif not isinstance(tower, HfTower):
        raise ConfigError(
            f"{tower.reference!r} is neither an open_clip nor a transformers tower; it cannot be exported"
        )
    with new_folder(folder, overwrite=overwrite) as inside:
        model = _own(tower, inside) if isinstance(tower, HfTower) else _converted(tower, inside)
        siglip = type(model).__name__.startswith("Siglip")
        processor = processor_settings(tower, mode, "SiglipImageProcessor" if siglip else "CLIPImageProcessor")
        (inside / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        report = _load_back(tower, inside)
        report.save(inside)
    return report


def _own(tower: HfTower, inside: Path) -> PreTrainedModel:
    with without_bars():
        tower.model.save_pretrained(inside)
    if tower.files.folder is not None:
        for name in TOKENIZER_FILES:
            if tower.files.has(name):
                shutil.copyfile(tower.files.folder / name, inside / name)
    elif isinstance(tower.model, (CLIPModel, SiglipModel)):
        tower.tokenizer.save_pretrained(inside)
    return tower.model


def _converted(tower: OpenClipTower, inside: Path) -> PreTrainedModel:
    tokenizer = own_tokenizer(tower)
    if tokenizer is not None:
        tokenizer.save_pretrained(inside)
    config = to_config(tower.model, tower.reference)
    with torch.device("meta"):
        # Its dtype is what save_pretrained writes into the configuration.
        model: Any = CLIPModel(config)
        model.to(tower.dtype)
    state = to_state(tower.model)
    expected = {name for name, _ in model.named_parameters()}
    if state.keys() != expected:
        odd = sorted(state.keys() ^ expected)
        raise CheckpointError(f"converting {tower.reference!r} left {odd[:3]} over; report this as a bug")
    with without_bars():
        model.save_pretrained(inside, state_dict=state)
    return model


def own_tokenizer(tower: OpenClipTower) -> PreTrainedTokenizerBase | None:
    """Return the tower's tokenizer as transformers' own; None where the text tower has another vocabulary.

    Raises:
        ConfigError: it cannot be loaded.
    """
    tokenizer = tower.tokenizer
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.tokenizer
    vocabulary = tower.model_cfg["text_cfg"].get("vocab_size", tokenizer.vocab_size)
    return clip_tokenizer(tokenizer) if vocabulary == tokenizer.vocab_size else None


def clip_tokenizer(tokenizer: SimpleTokenizer) -> CLIPTokenizer:
    """Return open_clip's byte-pair tokenizer as transformers' own, with the same ids."""
    rename = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {rename.get(token, token): number for token, number in tokenizer.encoder.items()}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in tokenizer.bpe_ranks],  # type: ignore[arg-type]
        model_max_length=tokenizer.context_length,
    )


def processor_settings(tower: Tower, mode: ResizeMode, kind: str) -> dict[str, Any]:
    """Return what an image processor of transformers, of that kind, is told of a tower's images."""
    height, width = tower.input.size
    squash = mode == "squash"
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width} if squash else {"shortest_edge": height},
        "do_center_crop": not squash,
        "crop_size": {"height": height, "width": width},
        "resample": _RESAMPLE[tower.input.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(tower.input.mean),
        "image_std": list(tower.input.std),
    }


def _load_back(tower: HfTower | OpenClipTower, inside: Path) -> ExportReport:
    loaded = load_tower(ClipConfig(name=f"hf:{inside}", layer=tower.layer))
    # Copied and moved as a whole, so that both sides compute in float32 on the CPU.
    source = copy.deepcopy(tower).to(device="cpu", dtype=torch.float32).eval()
    pixels, ids = probe_pixels(tower.input.size), _text_ids(source)
    with torch.no_grad():
        patch, image = difference("patch tokens", source(pixels).patches, loaded(pixels).patches), None
        if source.embed_width is not None:
            image = difference("image embeddings", source.embed(pixels), loaded.embed(pixels))
        text = None if ids is None else difference("text embeddings", embed_ids(source, ids), embed_ids(loaded, ids))
    return ExportReport(
        format="transformers",
        reference=tower.reference,
        activation=tower.activation,
        parameters=sum(p.numel() for p in loaded.parameters()),
        image_difference=image and image[0],
        image_scale=image and image[1],
        text_difference=text and text[0],
        text_scale=text and text[1],
        libraries=versions("tove-core", "torch", "transformers"),
        patch_difference=patch[0],
        patch_scale=patch[1],
    )


def _text_ids(tower: HfTower | OpenClipTower) -> Tensor | None:
    if isinstance(tower, OpenClipTower):
        return text_probe(tower)
    if not isinstance(tower.model, (CLIPModel, SiglipModel)):
        return None
    text: Any = tower.model.config.text_config
    # SigLIP pools at the last place, whatever stands there.
    end = text.vocab_size - 1 if text.eos_token_id == 2 or isinstance(tower.model, SiglipModel) else text.eos_token_id
    return probe_ids(text.max_position_embeddings, text.vocab_size, int(end))


def embed_ids(tower: Tower, ids: Tensor) -> Tensor:
    """Return text embeddings [T, E], not normalised, of token ids [T, L]."""
    model: Any = tower.model
    if isinstance(tower, OpenClipTower):
        return model.encode_text(ids, normalize=False)
    return model.get_text_features(input_ids=ids).pooler_output
