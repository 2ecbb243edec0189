from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

VISION = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 40}
TEXT = {"context_length": 9, "vocab_size": 61, "width": 32, "heads": 2, "layers": 2}


def tiny_cfg(vision: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {"embed_dim": 20, "vision_cfg": VISION | (vision or {}), "text_cfg": dict(TEXT), **top}


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Enlarge the weights, so that the blocks do something and activations differ visibly."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return model.eval()


@pytest.fixture
def open_clip_folder(tmp_path: Path) -> Callable[..., tuple[Path, torch.nn.Module]]:
    """Write a tiny open_clip folder and return it with the model that was saved."""

    def write(cfg: dict[str, Any] | None = None, name: str = "clip", **preprocess: Any):
        cfg = cfg or tiny_cfg()
        kind = open_clip.CustomTextCLIP if cfg.get("custom_text") else open_clip.CLIP
        torch.manual_seed(3)
        model = spread(kind(**{k: v for k, v in cfg.items() if k != "custom_text"}))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        return folder, model

    return write


@pytest.fixture
def hf_folder(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Write a tiny transformers folder and return it with the model that was saved."""

    def write(model: Any, processor: dict[str, Any] | None = None):
        torch.manual_seed(4)
        folder = tmp_path / "hf"
        spread(model).save_pretrained(folder)
        processor = processor or {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return folder, model

    return write
