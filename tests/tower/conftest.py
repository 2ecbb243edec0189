from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tove_core.config import ClipConfig
from tove_core.tower import Tower, load_tower

VISION = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 40}
TEXT = {"context_length": 9, "vocab_size": 61, "width": 32, "heads": 2, "layers": 2}


def enlarge(model: Any) -> Any:
    """Make the blocks matter: at their initial size they hardly change what passes through them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return model.eval()


@pytest.fixture
def open_clip_folder(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Write a tiny open_clip folder; return it with the model that was saved."""

    def write(
        vision: dict | None = None,
        text: dict | None = None,
        preprocess: dict | None = None,
        name: str = "clip",
        **top: Any,
    ) -> tuple[Path, Any]:
        cfg = {"embed_dim": 20, "vision_cfg": vision or VISION, "text_cfg": TEXT | (text or {}), **top}
        kind = open_clip.CustomTextCLIP if top.get("custom_text") else open_clip.CLIP
        torch.manual_seed(3)
        model = enlarge(kind(**{k: v for k, v in cfg.items() if k != "custom_text"}))
        folder = tmp_path / name
        folder.mkdir()
        config = {"model_cfg": cfg, "preprocess_cfg": preprocess or {}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        return folder, model

    return write


@pytest.fixture
def hf_folder(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Write a tiny transformers folder; return it with the model that was saved."""

    def write(model: Any, **processor: Any) -> tuple[Path, Any]:
        folder = tmp_path / "hf"
        enlarge(model).save_pretrained(folder)
        settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3} | processor
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        return folder, model

    return write


@pytest.fixture
def tower(open_clip_folder: Callable[..., tuple[Path, Any]]) -> Tower:
    return load_tower(ClipConfig(name=f"local-dir:{open_clip_folder()[0]}"))


@pytest.fixture
def one_pass() -> Callable[[Tower, torch.Tensor], None]:
    """Hold what one pass gives to what two give: values, and gradients in every parameter."""

    def check(tower: Tower, pixels: torch.Tensor) -> None:
        tower = tower.trainable_copy()
        found: list[list[torch.Tensor]] = []
        for joint in (False, True):
            passes = tower.features_and_embedding(pixels) if joint else (tower.features(pixels), tower.embed(pixels))
            (patches, cls), embedding = passes
            parts = [one for one in (patches, cls, embedding) if one is not None]
            tower.zero_grad()
            torch.stack([part.square().mean() * (i + 1) for i, part in enumerate(parts)]).sum().backward()
            found.append([*parts, *(torch.zeros(()) if p.grad is None else p.grad for p in tower.parameters())])
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=2e-5)  # sums in another order

    return check
