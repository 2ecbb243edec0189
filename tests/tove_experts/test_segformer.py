from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
from transformers.image_utils import PILImageResampling

from tove_experts.segformer import SEGFORMER


# The weight files of the repositories have 15.0, 54.9, 110 and 339 MB, four bytes to a parameter.
@pytest.mark.parametrize(("variant", "megabytes"), [("b0", 15.0), ("b1", 54.9), ("b2", 110), ("b5", 339)])
def test_every_size_has_the_published_number_of_parameters(variant, megabytes, on_meta, count):
    found = count(on_meta(SEGFORMER, variant))
    assert found == SEGFORMER.variant(variant).cost.params
    assert 4 * found / 1e6 == pytest.approx(megabytes, rel=5e-3)


def test_classes_and_features_are_the_librarys_own(through_the_hub, photo, seen, close):
    model = SegformerForSemanticSegmentation(SegformerConfig(**deepcopy(SEGFORMER.tiny["config"])))
    expert = through_the_hub(SEGFORMER, model)
    input = expert.spec.input
    assert input.size[0] != input.size[1]
    image = photo(input)
    size = {"height": input.size[0], "width": input.size[1]}
    pixels = SegformerImageProcessor(size=size)(image, return_tensors="pt").pixel_values
    fused = []
    model.decode_head.classifier.register_forward_hook(lambda module, given, result: fused.append(given[0]))
    with torch.no_grad():
        logits = model(pixels).logits
    rows, columns = input.size[0] // 16, input.size[1] // 16
    features = fused[0].reshape(1, -1, rows, 4, columns, 4).mean((3, 5))
    found = expert(seen(image, input))
    close(found, {"classes": logits.exp() / logits.exp().sum(1, keepdim=True), "features": features})
    torch.testing.assert_close(found["classes"].sum(1), torch.ones(1, input.size[0] // 4, input.size[1] // 4))


def test_preprocessing_is_what_the_library_declares():
    declared, input = SegformerImageProcessor, SEGFORMER.input
    assert (list(input.mean), list(input.std)) == (list(declared.image_mean), list(declared.image_std))
    assert input.size == (declared.size["height"], declared.size["width"])
    assert declared.resample == PILImageResampling.BILINEAR and input.interpolation == "bilinear"


def test_the_smallest_is_the_librarys_default():
    made = SegformerConfig(**deepcopy(SEGFORMER.variant("b0").options["config"]))
    for name in ("depths", "hidden_sizes", "decoder_hidden_size", "num_attention_heads", "sr_ratios"):
        assert list_or_value(getattr(made, name)) == list_or_value(getattr(SegformerConfig(), name)), name


def list_or_value(value):
    return list(value) if isinstance(value, (list, tuple)) else value


def test_no_variant_may_be_used_commercially():
    assert [variant.weights.commercial for variant in SEGFORMER.variants.values()] == [False] * 4
