from __future__ import annotations

import copy

import pytest
import torch

from tove_core.errors import ConfigError, ImageError
from tove_core.tower.base import block_index, image_input


def test_forward_has_no_gradient_and_features_has(tower):
    pixels = torch.randn(2, 3, 40, 40, requires_grad=True)
    assert not tower(pixels).patches.requires_grad
    tower.features(pixels).patches.square().sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0
    assert all(p.grad is None for p in tower.parameters())


def test_a_frozen_tower_stays_in_evaluation_whatever_is_called(tower):
    before = {name: p.clone() for name, p in tower.named_parameters()}
    outer = torch.nn.Sequential(torch.nn.Linear(2, 2), tower).train()
    tower(torch.randn(1, 3, 40, 40))
    assert outer.training and not any(m.training for m in tower.modules())
    assert not any(p.requires_grad for p in tower.parameters())
    assert all(torch.equal(before[name], p) for name, p in tower.named_parameters())


def test_a_trainable_copy_trains_its_image_tower_and_leaves_the_original_alone(tower):
    pixels = torch.randn(2, 3, 40, 40)
    before = tower(pixels).patches
    copy = tower.trainable_copy()
    text = {id(p) for p in copy.parameters()} - {id(p) for p in copy.vision.parameters()}
    assert text and not any(p.requires_grad for p in copy.parameters() if id(p) in text)
    assert all(p.requires_grad for p in copy.vision.parameters()) and copy.vision.training
    copy.features(pixels).patches.square().mean().backward()
    with torch.no_grad():
        for parameter in copy.vision.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    assert not torch.allclose(copy(pixels).patches, before, atol=1e-3)
    assert torch.equal(tower(pixels).patches, before)


def test_a_trainable_copy_of_half_precision_holds_what_it_trains_in_float32(tower):
    half = copy.deepcopy(tower).bfloat16()
    trainable = half.trainable_copy()
    assert half.dtype == torch.bfloat16 and trainable.dtype == torch.float32
    values = zip(trainable.parameters(), half.parameters(), strict=True)
    assert all(own.dtype == (torch.float32 if own.requires_grad else torch.bfloat16) for own in trainable.parameters())
    assert all(torch.equal(own.float(), before.float()) for own, before in values)


def test_freezing_again_ends_training(tower):
    copy = tower.trainable_copy().freeze().train()
    assert not copy.training and not any(p.requires_grad for p in copy.parameters())


def test_blocks_after_the_chosen_one_get_no_gradient(tower):
    copy = tower.trainable_copy()
    copy.features(torch.randn(1, 3, 40, 40)).patches.sum().backward()
    graded = [any(p.grad is not None for p in b.parameters()) for b in copy.vision.transformer.resblocks]
    assert graded == [True, True, False]


@pytest.mark.parametrize("shape", [(1, 3, 48, 48), (3, 40, 40), (1, 1, 40, 40)])
def test_pixels_of_another_shape_are_refused(tower, shape):
    with pytest.raises(ImageError, match=r"sees \[B, 3, 40, 40\]"):
        tower(torch.randn(*shape))


def test_integer_pixels_are_refused(tower):
    with pytest.raises(ImageError, match="normalise"):
        tower(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))


@pytest.mark.parametrize("texts", ["a cat", [], ()])
def test_text_must_be_a_list_of_strings(tower, texts):
    with pytest.raises(ConfigError, match="list"):
        tower.embed_text(texts)


@pytest.mark.parametrize(("layer", "block"), [(-1, 4), (-5, 0), (0, 0), (4, 4)])
def test_layers_count_from_both_ends(layer, block):
    assert block_index(layer, 5, "x") == block


@pytest.mark.parametrize("layer", [5, -6])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ConfigError, match="from -5 to 4"):
        block_index(layer, 5, "x")


def test_published_sizes_need_not_be_whole_patches_but_wanted_ones_must():
    preprocess = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    assert image_input((30, 30), (14, 14), preprocess, wanted=False, reference="x").patch is None
    with pytest.raises(ConfigError, match="use 28"):
        image_input((30, 30), (14, 14), preprocess, wanted=True, reference="x")


@pytest.mark.parametrize(
    "change", [{"interpolation": "random"}, {"mean": (0.5,)}, {"std": (0.0, 1.0, 1.0)}, {"mean": None}]
)
def test_preprocessing_that_cannot_be_done_is_refused(change):
    preprocess = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"} | change
    with pytest.raises(ConfigError, match="preprocessing of 'x'"):
        image_input((28, 28), (14, 14), preprocess, wanted=False, reference="x")
