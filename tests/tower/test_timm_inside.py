from __future__ import annotations

import open_clip
import pytest
import torch

from tove_core.config import ClipConfig
from tove_core.errors import ConfigError
from tove_core.tower import load_tower
from tove_core.tower.open_clip import OpenClipTower

# timm's own miniatures: 160 pixels, patch 16, width 64.
WITH_CLASS_TOKEN = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
REGISTERS_ONLY = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "linear", "image_size": 160}


def load(folder, **clip):
    return load_tower(ClipConfig(name=f"local-dir:{folder}", **clip))


@pytest.mark.parametrize("vision", [WITH_CLASS_TOKEN, REGISTERS_ONLY])
def test_tokens_are_the_output_of_the_chosen_block(open_clip_folder, vision):
    folder, model = open_clip_folder(vision=vision, custom_text=True)
    tower = load(folder, layer=1)
    pixels = torch.randn(2, 3, 160, 160)
    tokens = tower(pixels)
    trunk = model.visual.trunk
    with torch.no_grad():
        x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels)))
        for block in trunk.blocks[:2]:
            x = block(x)
    torch.testing.assert_close(tokens.patches, x[:, trunk.num_prefix_tokens :], rtol=1e-4, atol=1e-4)
    assert tower.grid == (10, 10) and trunk.num_prefix_tokens > 0
    if vision is WITH_CLASS_TOKEN:
        torch.testing.assert_close(tokens.cls, x[:, 0], rtol=1e-4, atol=1e-4)
    else:
        assert tokens.cls is None
    torch.testing.assert_close(tower.embed(pixels), model.encode_image(pixels), rtol=1e-4, atol=1e-4)


def test_another_image_size_is_set_after_loading(open_clip_folder):
    folder, model = open_clip_folder(vision=WITH_CLASS_TOKEN, custom_text=True)
    tower = load(folder, image_size=64)
    model.visual.set_input_size(64)
    pixels = torch.randn(1, 3, 64, 64)
    assert tower(pixels).patches.shape == (1, 16, 64) and tower.input.size == (64, 64)
    torch.testing.assert_close(tower.embed(pixels), model.encode_image(pixels), rtol=1e-4, atol=1e-4)


def test_the_flag_for_quick_gelu_does_not_reach_timm(open_clip_folder):
    assert load(open_clip_folder(vision=WITH_CLASS_TOKEN, custom_text=True, quick_gelu=True)[0]).activation == "gelu"


def test_a_convolutional_tower_is_refused():
    vision = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
    text = {"context_length": 4, "vocab_size": 9, "width": 16, "heads": 1, "layers": 1}
    cfg = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    with pytest.raises(ConfigError, match="choose a ViT"):
        OpenClipTower.wrap(open_clip.CustomTextCLIP(**cfg), cfg)
