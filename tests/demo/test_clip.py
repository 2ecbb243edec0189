"""The shipped CLIP is an ordinary open_clip model that knows colours and kinds."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch.nn import functional as F

from tove_core.demo.captions import clip_captions
from tove_core.demo.layout import SIZE
from tove_core.demo.pretrain_clip import PATCH, PENULTIMATE, coverage, pixels, pretrain
from tove_core.demo.probe import clip_tokens, load_clip, probe, ridge
from tove_core.demo.scene import Scenes
from tove_core.demo.shipped import asset
from tove_core.demo.splits import VALIDATION
from tove_core.demo.tokenizer import train


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    return load_clip()


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return VALIDATION.scenes(0, 500)


def test_it_has_openais_form(model: open_clip.CLIP) -> None:
    visual = model.visual
    assert visual.pool_type == "tok" and visual.class_embedding is not None
    assert isinstance(visual.ln_pre, torch.nn.LayerNorm)
    assert type(visual.transformer.resblocks[0].mlp.gelu) is torch.nn.GELU
    assert sum(p.numel() for p in visual.parameters()) < 1_200_000
    assert len(visual.transformer.resblocks) - 2 == PENULTIMATE


def test_open_clips_own_transform_feeds_it_the_same_pixels(scenes: Scenes) -> None:
    from PIL import Image

    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{asset('clip')}")
    image = scenes.image[0]
    assert torch.allclose(transform(Image.fromarray(image.permute(1, 2, 0).numpy())), pixels(image), atol=1e-5)


def test_it_finds_the_caption_of_an_image_among_many(model: open_clip.CLIP, scenes: Scenes) -> None:
    tokenize = open_clip.get_tokenizer(f"local-dir:{asset('clip')}")
    texts = clip_captions(scenes[:200], seed=31)
    with torch.no_grad():
        images = model.encode_image(pixels(scenes.image[:200]), normalize=True)
        right, kind, colour = (model.encode_text(tokenize([t[i] for t in texts]), normalize=True) for i in range(3))
    found = (images @ right.T).argmax(1) == torch.arange(200)
    assert found.float().mean() > 0.25, "chance is 0.005"
    for wrong in (kind, colour):
        assert ((images * right).sum(1) > (images * wrong).sum(1)).float().mean() > 0.7, "chance is 0.5"


def test_patch_tokens_know_colour_and_kind(model: open_clip.CLIP, scenes: Scenes) -> None:
    row = probe({"clip": clip_tokens(model, scenes.image)}, scenes, fit=350)["clip"]
    assert row["colour"] >= 0.9
    assert row["kind"] >= 0.75


def test_patch_tokens_are_those_before_the_last_block(model: open_clip.CLIP, scenes: Scenes) -> None:
    seen: list[torch.Tensor] = []
    hook = model.visual.transformer.resblocks[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.encode_image(pixels(scenes.image[:3]))
    hook.remove()
    assert torch.allclose(clip_tokens(model, scenes.image[:3]), seen[0][:, 1:], atol=1e-5)


def test_coverage_is_the_share_of_a_patchs_pixels() -> None:
    instance = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    instance[0, 3:9, 10:20] = 2
    share = coverage(instance)[0, 1].view(SIZE // PATCH, -1)
    assert share[0, 1] == pytest.approx(5 * 6 / 64) and share[1, 2] == pytest.approx(1 * 4 / 64)
    assert share.sum() * 64 == pytest.approx(60)


def test_ridge_recovers_a_linear_map() -> None:
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(400, 7, generator=g), torch.randn(7, 3, generator=g)
    y = x @ w + 2.0
    assert F.mse_loss(ridge(x[:300], y[:300], x[300:]), y[300:]) < 0.01


def test_training_repeats_exactly(scenes: Scenes) -> None:
    tokenizer = train()
    logged: list[str] = []
    first, second = (pretrain(tokenizer, scenes, steps=2, report=logged.append).state_dict() for _ in range(2))
    assert len(logged) == 4 and all(torch.equal(a, second[key]) for key, a in first.items())
