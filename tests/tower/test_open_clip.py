from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from tove_core.config import ClipConfig
from tove_core.errors import ConfigError, WeightsError
from tove_core.tower import load_tower
from tove_core.tower.open_clip import OpenClipTower

TINY = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 40}


def load(folder, **clip):
    return load_tower(ClipConfig(name=f"local-dir:{folder}", **clip))


def after_block(visual, pixels, count):
    """Run a vision transformer of open_clip by hand through its first `count` blocks."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:count]:
        x = block(x)
    return x


@pytest.mark.parametrize(("layer", "count"), [(-2, 2), (-1, 3), (0, 1)])
def test_tokens_are_the_output_of_the_chosen_block(open_clip_folder, layer, count):
    folder, model = open_clip_folder()
    pixels = torch.randn(2, 3, 40, 40)
    tokens = load(folder, layer=layer)(pixels)
    expected = after_block(model.visual, pixels, count)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens.cls, expected[:, 0], rtol=1e-4, atol=1e-4)


def test_patches_are_in_row_major_order(open_clip_folder):
    tower = load(open_clip_folder(vision=TINY | {"image_size": [40, 24]})[0], layer=0)
    assert tower.grid == (5, 3) and tower.tokens == 15
    pixels = torch.zeros(1, 3, 40, 24)
    changed = pixels.clone()
    changed[:, :, 8:16, 16:24] = 3.0
    moved = (tower(changed).patches - tower(pixels).patches).abs().sum(-1)[0]
    assert moved.argmax() == 1 * 3 + 2


def test_later_blocks_are_not_computed(open_clip_folder):
    tower = load(open_clip_folder()[0])
    with torch.no_grad():
        for parameter in tower.vision.transformer.resblocks[2].parameters():
            parameter.fill_(float("nan"))
    pixels = torch.randn(1, 3, 40, 40)
    assert tower(pixels).patches.isfinite().all() and tower.embed(pixels).isnan().all()


@pytest.mark.parametrize(
    "vision",
    [
        TINY,
        TINY | {"pool_type": "avg", "final_ln_after_pool": True},
        TINY | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5},
        TINY | {"output_tokens": True},
        TINY | {"ls_init_value": 0.1, "no_ln_pre": True},
    ],
)
def test_embeddings_are_those_of_the_saved_model(open_clip_folder, one_pass, vision):
    folder, model = open_clip_folder(vision=vision)
    pixels = torch.randn(2, 3, 40, 40)
    expected = model.encode_image(pixels)
    expected = expected[0] if isinstance(expected, tuple) else expected
    tower = load(folder)
    torch.testing.assert_close(tower.embed(pixels), expected, rtol=1e-4, atol=1e-4)
    assert tower(pixels).patches.shape == (2, 25, 48)
    assert tower.embed_width == expected.shape[-1]
    one_pass(tower, pixels)


def test_a_tower_of_timm_gives_tokens_and_embedding_in_one_pass(one_pass):
    torch.manual_seed(0)
    text = {"context_length": 9, "vocab_size": 61, "width": 32, "heads": 2, "layers": 1}
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224}
    model = open_clip.CLIP(embed_dim=20, vision_cfg={**vision, "timm_model_pretrained": False}, text_cfg=text).eval()
    config = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text}
    one_pass(OpenClipTower.wrap(model, config, layer=-1), torch.randn(1, 3, 224, 224))


def test_patch_dropout_never_removes_tokens(open_clip_folder):
    tower = load(open_clip_folder(vision=TINY | {"patch_dropout": 0.5})[0]).trainable_copy()
    assert tower.features(torch.randn(2, 3, 40, 40)).patches.shape == (2, 25, 48)


def test_the_activation_is_read_from_the_blocks_and_not_from_the_flag(open_clip_folder):
    folder, model = open_clip_folder()
    cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    assert load(folder).activation == "gelu"
    for block in model.visual.transformer.resblocks:
        block.mlp.gelu = QuickGELU()
    assert not cfg.get("quick_gelu")
    assert OpenClipTower.wrap(model, cfg).activation == "quick_gelu"


def test_the_flag_of_the_configuration_is_followed(open_clip_folder):
    assert load(open_clip_folder(quick_gelu=True)[0]).activation == "quick_gelu"


def test_a_tag_knows_its_activation_and_normalisation_better_than_the_architecture():
    from tove_core.tower.open_clip_source import from_tag

    assert open_clip.get_model_config("ViT-B-16").get("quick_gelu", False) is False
    assert from_tag("ViT-B-16/openai", "random").model_cfg["quick_gelu"] is True
    siglip = from_tag("ViT-B-16-SigLIP/webli", "random").preprocess_cfg
    assert siglip["mean"] == (0.5, 0.5, 0.5) and siglip["resize_mode"] == "squash"


def test_another_image_size_resamples_the_positions(open_clip_folder):
    folder, model = open_clip_folder()
    tower = load(folder, image_size=56)
    assert tower.grid == (7, 7) and tower.input.size == (56, 56)
    old = model.visual.positional_embedding
    grid = old[1:].T.reshape(1, 48, 5, 5)
    new = torch.nn.functional.interpolate(grid, size=(7, 7), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(tower.vision.positional_embedding[1:], new.reshape(48, 49).T)
    assert torch.equal(tower.vision.positional_embedding[0], old[0])
    assert tower(torch.randn(1, 3, 56, 56)).patches.shape == (1, 49, 48)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_image_size_of_weights_kept_in_half_precision_is_resampled_in_full(open_clip_folder, dtype):
    folder, model = open_clip_folder()
    state = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    tower = load(folder, image_size=24)
    assert tower.grid == (3, 3) and tower.vision.positional_embedding.dtype == torch.float32
    old = state["visual.positional_embedding"].float()
    new = resampled(old[1:].reshape(5, 5, 48).numpy(), 3)
    torch.testing.assert_close(tower.vision.positional_embedding[1:], new.reshape(9, 48), rtol=1e-5, atol=1e-6)
    assert torch.equal(tower.vision.positional_embedding[0], old[0])
    pixels = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(tower(pixels).patches, after_block(tower.vision, pixels, 2)[:, 1:], rtol=1e-4, atol=1e-4)


def resampled(grid, side):
    """Resample a square map [n, n, C] to [side, side, C] by the antialiased bicubic filter (a = -0.5), written out."""

    def weights(size):
        scale = size / side
        reach = max(scale, 1.0)
        rows = []
        for i in range(side):
            x = np.abs((np.arange(size) + 0.5 - (i + 0.5) * scale) / reach)
            near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            row = np.where(x < 1, near, np.where(x < 2, far, 0.0))
            rows.append(row / row.sum())
        return np.stack(rows)

    along = weights(len(grid))
    return torch.from_numpy(np.einsum("ij,jkc,lk->ilc", along, grid.astype(np.float64), along)).float()


def test_the_packages_clip_is_had_at_another_size():
    name = "package:tove_core.demo/assets/clip"
    small, large = load_tower(ClipConfig(name=name)), load_tower(ClipConfig(name=name, image_size=96))
    side = small.input.patch
    assert large.grid == (96 // side, 96 // side) and large.input.size == (96, 96)
    assert large.grid != small.grid and large.weights_sha256 == small.weights_sha256
    grid = small.vision.positional_embedding[1:].reshape(*small.grid, -1).numpy()
    new = resampled(grid, large.grid[0]).flatten(0, 1)
    torch.testing.assert_close(large.vision.positional_embedding[1:], new, rtol=1e-5, atol=1e-6)
    assert large(torch.randn(1, 3, 96, 96)).patches.shape == (1, large.tokens, small.width)


def test_sizes_that_cannot_be_had_are_refused(open_clip_folder):
    folder, _ = open_clip_folder()
    with pytest.raises(ConfigError, match="multiple of the patch 8"):
        load(folder, image_size=44)
    with pytest.raises(ConfigError, match=r"multiple of the patch 8 .*; use 8"):
        load(folder, image_size=4)
    folder, _ = open_clip_folder(vision=TINY | {"image_size": [16, 64]}, name="wide")
    with pytest.raises(ConfigError, match="16x64"):
        load(folder, image_size=32)


def test_a_residual_network_is_refused():
    with pytest.raises(ConfigError, match="ModifiedResNet"):
        load_tower(ClipConfig(name="RN50/random"))


def test_text_beyond_the_vocabulary_is_refused(open_clip_folder):
    tower = load(open_clip_folder()[0])
    with pytest.raises(ConfigError, match="knows 61"):
        tower.embed_text(["a cat"])


def test_text_is_embedded_with_the_models_own_tokenizer(open_clip_folder):
    folder, model = open_clip_folder(text={"vocab_size": 49408})
    texts = ["a red cube", "two dogs"]
    tower = load(folder)
    embedded = tower.embed_text(texts)
    expected = model.encode_text(open_clip.SimpleTokenizer(context_length=9)(texts))
    torch.testing.assert_close(embedded, expected, rtol=1e-4, atol=1e-4)
    assert not embedded.requires_grad and embedded.shape == (2, tower.embed_width)


def test_a_missing_tokenizer_is_named_when_text_is_wanted(open_clip_folder):
    tower = load(open_clip_folder(text={"hf_tokenizer_name": "somewhere/else"})[0])
    with pytest.raises(ConfigError, match="tokenizer"):
        tower.embed_text(["a cat"])


def test_half_precision_is_honoured(open_clip_folder):
    folder, _ = open_clip_folder()
    pixels = torch.randn(1, 3, 40, 40)
    full, half = load(folder)(pixels).patches, load(folder, dtype="bfloat16")(pixels).patches
    assert half.dtype == torch.bfloat16
    assert 0 < (half.float() - full).abs().max() < 0.1 * full.abs().max()


def test_pickled_weights_are_refused(open_clip_folder):
    folder, model = open_clip_folder()
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsError, match="safetensors only"):
        load(folder)


def test_truncated_weights_are_refused(open_clip_folder):
    file = open_clip_folder()[0] / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        load(file.parent)


def test_weights_of_another_model_are_refused(open_clip_folder):
    folder, _ = open_clip_folder()
    other, _ = open_clip_folder(vision=TINY | {"width": 32}, name="other")
    (other / "open_clip_model.safetensors").rename(folder / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match="do not fit"):
        load(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": {"embed_dim": 3}}'])
def test_a_configuration_that_is_not_open_clips_is_refused(open_clip_folder, content):
    folder, _ = open_clip_folder()
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"open_clip_config\.json"):
        load(folder)


def test_a_misspelt_architecture_key_is_named(open_clip_folder):
    folder, _ = open_clip_folder()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["widht"] = 3
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="widht"):
        load(folder)
