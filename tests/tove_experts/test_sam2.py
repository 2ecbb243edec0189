from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
from transformers.image_utils import PILImageResampling

from tove_experts.sam2 import SAM2


# SAM 2's README gives the whole video model: 38.9M, 46M, 80.8M, 224.4M. The image encoder is what it has of it.
@pytest.mark.parametrize(
    ("variant", "millions"), [("tiny", 38.9), ("small", 46.0), ("base-plus", 80.8), ("large", 224.4)]
)
def test_every_size_is_the_image_encoder_of_the_published_model(variant, millions, on_meta, count):
    spec = SAM2.variant(variant)
    with torch.device("meta"):
        whole = Sam2VideoModel(Sam2VideoConfig(vision_config=deepcopy(spec.options["config"])))
    # The mask decoder's position encoding is a buffer here and a parameter there, the README rounds: 0.1M.
    assert count(whole) / 1e6 == pytest.approx(millions, abs=0.1)
    found = on_meta(SAM2, variant)
    assert count(found) == count(whole.vision_encoder) == spec.cost.params
    assert found.state_dict().keys() == {f"model.{name}" for name in whole.vision_encoder.state_dict()}


def reference():
    return Sam2Model(Sam2Config(vision_config=Sam2VisionConfig(**deepcopy(SAM2.tiny["config"]))))


def test_the_pyramid_is_the_librarys_own(through_the_hub, photo, seen, close):
    model = reference()
    expert = through_the_hub(SAM2, model)
    input = expert.spec.input
    assert input.size[0] != input.size[1]
    image = photo(input)
    size = {"height": input.size[0], "width": input.size[1]}
    pixels = Sam2ImageProcessor(size=size)(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        finest, detail, features = model.vision_encoder(pixels).fpn_hidden_states
    assert finest.shape[-2:] == (input.size[0] // 4, input.size[1] // 4)
    close(expert(seen(image, input)), {"features": features, "detail": detail})


def test_preprocessing_is_what_the_library_declares():
    declared, input = Sam2ImageProcessor, SAM2.input
    assert (list(input.mean), list(input.std)) == (list(declared.image_mean), list(declared.image_std))
    assert input.size == (declared.size["height"], declared.size["width"])
    assert declared.resample == PILImageResampling.BILINEAR and input.interpolation == "bilinear"


def test_the_smallest_is_the_librarys_default():
    made, default = Sam2VisionConfig(**deepcopy(SAM2.variant("tiny").options["config"])), Sam2VisionConfig()
    assert made.to_dict() == default.to_dict()
