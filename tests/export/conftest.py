from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch

from tove_core.tower.open_clip import OpenClipTower

VISION = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 40}
TEXT = {"context_length": 9, "vocab_size": 61, "width": 32, "heads": 2, "layers": 2}


@pytest.fixture
def make_tower() -> Callable[..., OpenClipTower]:
    """Build a tiny open_clip tower with blocks that matter."""

    def make(
        vision: dict | None = None, text: dict | None = None, preprocess: dict | None = None, **top: Any
    ) -> OpenClipTower:
        cfg = {"embed_dim": 20, "vision_cfg": VISION | (vision or {}), "text_cfg": TEXT | (text or {}), **top}
        kind = open_clip.CustomTextCLIP if top.get("custom_text") else open_clip.CLIP
        torch.manual_seed(3)
        model = kind(**{k: v for k, v in cfg.items() if k != "custom_text"})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2)
        return OpenClipTower.wrap(model, cfg, preprocess_cfg=preprocess, reference="tiny")

    return make
