from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DPTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from tove_experts.depth_anything import DEPTH_ANYTHING


# Depth-Anything-V2's README: 24.8M, 97.5M, 335.3M.
@pytest.mark.parametrize(("variant", "millions"), [("small", 24.8), ("base", 97.5), ("large", 335.3)])
def test_every_size_has_the_published_number_of_parameters(variant, millions, on_meta, count):
    found = count(on_meta(DEPTH_ANYTHING, variant))
    assert found == DEPTH_ANYTHING.variant(variant).cost.params
    assert round(found / 1e6, 1) == millions


def reference():
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(**deepcopy(DEPTH_ANYTHING.tiny["config"])))


def processor(size):
    # As `convert_depth_anything_to_hf.py` makes it; only the size is another.
    return DPTImageProcessor(
        size={"height": size[0], "width": size[1]},
        ensure_multiple_of=14,
        keep_aspect_ratio=True,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


def test_depth_and_features_are_the_librarys_own(through_the_hub, photo, seen, close):
    model = reference()
    expert = through_the_hub(DEPTH_ANYTHING, model)
    input = expert.spec.input
    assert input.size[0] != input.size[1]
    image = photo(input)
    pixels = processor(input.size)(image, return_tensors="pt").pixel_values
    maps = []
    model.neck.register_forward_hook(lambda module, given, result: maps.append(result[-1]))
    with torch.no_grad():
        depth = model(pixels).predicted_depth
    rows, columns = input.size[0] // 7, input.size[1] // 7
    features = maps[0].reshape(1, -1, rows, 4, columns, 4).mean((3, 5))
    close(expert(seen(image, input)), {"depth": depth[:, None], "features": features})


def test_preprocessing_is_what_the_library_declares():
    input, declared = DEPTH_ANYTHING.input, processor((518, 518))
    assert (list(input.mean), list(input.std)) == (list(declared.image_mean), list(declared.image_std))
    assert declared.resample == PILImageResampling.BICUBIC and input.interpolation == "bicubic"
    assert input.patch == declared.ensure_multiple_of == DepthAnythingConfig().patch_size
    assert DepthAnythingConfig().backbone_config.image_size == input.size[0]


def test_the_small_size_is_the_librarys_default_but_for_the_layers_taken():
    config, default = DEPTH_ANYTHING.variant("small").options["config"], DepthAnythingConfig()
    made = DepthAnythingConfig(**deepcopy(config))
    assert list(made.backbone_config.out_indices) == [3, 6, 9, 12]  # version 1, the default, takes 9 to 12
    for name in ("neck_hidden_sizes", "fusion_hidden_size", "reassemble_hidden_size", "patch_size", "max_depth"):
        assert getattr(made, name) == type(getattr(made, name))(getattr(default, name)), name


def test_the_free_licence_is_the_small_sizes_alone():
    commercial = {name: variant.weights.commercial for name, variant in DEPTH_ANYTHING.variants.items()}
    assert commercial == {"small": True, "base": False, "large": False}
    assert DEPTH_ANYTHING.default == "small"
