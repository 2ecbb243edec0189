"""CLIP towers of every origin give on the device what they give on the CPU: tokens, embeddings, texts, gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from tove_core.config import ClipConfig
from tove_core.tower import load_tower
from tove_core.tower.text import TextVectors

VISION = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 3}
SIGHT = {"image_size": 40, "patch_size": 8}
TEXT = {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 61}
WORDS = {"max_position_embeddings": 9, "bos_token_id": 59, "eos_token_id": 60, "pad_token_id": 0}
OPEN = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 40}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}


def of_transformers(folder: Path, model: Any) -> str:
    model.save_pretrained(folder)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return f"hf:{folder}"


def clip(folder: Path) -> str:
    vision, text = VISION | SIGHT | {"projection_dim": 20}, TEXT | WORDS | {"hidden_size": 32, "projection_dim": 20}
    return of_transformers(folder, CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=20)))


def siglip(folder: Path) -> str:
    text = TEXT | WORDS | {"hidden_size": 48}
    return of_transformers(folder, SiglipModel(SiglipConfig(vision_config=VISION | SIGHT, text_config=text)))


def of_open_clip(folder: Path, vision: dict[str, Any] = OPEN, kind: Any = open_clip.CLIP, **top: Any) -> str:
    text = {"context_length": 9, "vocab_size": 49_408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text}
    state = kind(**config).state_dict()
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config | top, "preprocess_cfg": {}}))
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def timm_inside(folder: Path) -> str:
    return of_open_clip(folder, TIMM, open_clip.CustomTextCLIP, custom_text=True)


@pytest.mark.parametrize("write", [clip, siglip, of_open_clip, timm_inside], ids=lambda write: write.__name__)
def test_a_tower_sees_on_the_device_what_it_sees_on_the_cpu(
    write: Callable[[Path], str], tmp_path: Path, device: str, near: Callable[..., None]
) -> None:
    reference = write(tmp_path / "clip")
    there, here = (load_tower(ClipConfig(name=reference), device=place) for place in (device, "cpu"))
    pixels = torch.randn(2, 3, *here.input.size, generator=torch.Generator().manual_seed(0))
    near(there(pixels.to(device)).patches, here(pixels).patches)
    near(there.embed(pixels.to(device)), here.embed(pixels))
    gradients = []
    for tower, place in ((there, device), (here, "cpu")):
        student = tower.trainable_copy()
        tokens, embedding = student.features_and_embedding(pixels.to(place))
        (tokens.patches.square().mean() + embedding.square().mean()).backward()
        learnt = [one.grad for one in student.parameters() if one.grad is not None]
        gradients.append(torch.cat([one.reshape(-1) for one in learnt]))
    near(*gradients)


@pytest.mark.parametrize("write", [of_open_clip, timm_inside], ids=lambda write: write.__name__)
def test_words_are_embedded_on_the_device(
    write: Callable[[Path], str], tmp_path: Path, device: str, near: Callable[..., None]
) -> None:
    reference = write(tmp_path / "clip")
    there, here = (load_tower(ClipConfig(name=reference), device=place) for place in (device, "cpu"))
    near(there.embed_text(["a red cube", "cube"]), here.embed_text(["a red cube", "cube"]))
    words = TextVectors(there)(["cube", "a red cube", "cube"])
    torch.testing.assert_close(words.cpu(), TextVectors(here)(["cube", "a red cube", "cube"]), rtol=1e-3, atol=1e-3)
