from __future__ import annotations

import sys
from copy import deepcopy
from types import ModuleType

import pytest
import torch
from transformers import Tipsv2DptConfig, Tipsv2DptForDensePrediction, Tipsv2DptForNormalEstimation
from transformers.image_utils import PILImageResampling
from transformers.models.tipsv2_dpt.image_processing_tipsv2_dpt import Tipsv2DptImageProcessor

from tove_core.errors import PluginError
from tove_core.hub.load import load_expert
from tove_core.testing.bench import small
from tove_experts.normals import NORMALS


# The model cards of google/tipsv2-*-dpt: the vision backbones have 86M and 303M; the head is on top of that.
@pytest.mark.parametrize(("variant", "millions"), [("base", 86), ("large", 303)])
def test_every_size_has_the_published_backbone(variant, millions, on_meta, count):
    module = on_meta(NORMALS, variant)
    assert count(module) == NORMALS.variant(variant).cost.params
    assert count(module.model.backbone) / 1e6 == pytest.approx(millions, rel=5e-3)


def config():
    return Tipsv2DptConfig(**deepcopy(NORMALS.tiny["config"]))


def same(expert, model, photo, seen, close):
    """Compare with the library, from the image to the normals."""
    input = expert.spec.input
    assert input.size[0] != input.size[1]
    image = photo(input)
    processor = Tipsv2DptImageProcessor(size={"height": input.size[0], "width": input.size[1]})
    pixels = processor(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(seen(image, input), pixels, rtol=0, atol=1e-6)
    with torch.no_grad():
        outputs = model(pixels)
    (result,) = processor.post_process_normal_estimation(outputs, target_sizes=[input.size])
    # From the very same pixels: where the raw vector is short, its direction multiplies the last bit of its input.
    close(expert(pixels), {"normals": result["normals"][None]})


def test_normals_are_the_librarys_own(through_the_hub, photo, seen, close):
    model = Tipsv2DptForNormalEstimation(config())
    same(through_the_hub(NORMALS, model), model, photo, seen, close)


def test_the_other_heads_of_a_published_file_are_left_out(through_the_hub, photo, seen, close):
    model = Tipsv2DptForDensePrediction(config())
    same(through_the_hub(NORMALS, model), model, photo, seen, close)


def test_normals_have_length_one_before_they_are_resampled(through_the_hub, photo, seen):
    expert = through_the_hub(NORMALS, Tipsv2DptForNormalEstimation(config()))
    input = expert.spec.input
    length = expert(seen(photo(input), input))["normals"].norm(dim=1)
    assert length.max() <= 1 + 1e-5  # a mean of unit vectors is no longer than one
    assert length.mean() > 0.5


def test_preprocessing_is_what_the_library_declares():
    declared, input = Tipsv2DptImageProcessor, NORMALS.input
    assert input.size == (declared.size["height"], declared.size["width"])
    assert not declared.do_normalize and (input.mean, input.std) == ((0, 0, 0), (1, 1, 1))
    assert declared.resample == PILImageResampling.BILINEAR and input.interpolation == "bilinear"


def test_the_base_size_is_the_librarys_default():
    made, default = Tipsv2DptConfig(**deepcopy(NORMALS.variant("base").options["config"])), Tipsv2DptConfig()
    different = {"transformers_version", "backbone_config"}
    assert {k: v for k, v in made.to_dict().items() if k not in different} == {
        k: v for k, v in default.to_dict().items() if k not in different
    }
    assert made.backbone_config.to_dict() == default.backbone_config.to_dict()


def test_a_transformers_without_the_model_is_answered_with_the_version_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "tove_experts.adapters.transformers_normals", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    with pytest.raises(PluginError, match=r"no TIPSv2; install transformers>=5\.14"):
        load_expert(small(NORMALS.variant()), name="normals", weights="random")
