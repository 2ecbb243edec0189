from __future__ import annotations

from copy import deepcopy

import torch
from safetensors.torch import load_file, save_file
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor
from transformers.image_utils import PILImageResampling

from tove_experts.dpt import DPT


# Ranftl et al., "Vision Transformers for Dense Prediction", table of inference speed: DPT-Large has 343M.
def test_it_has_the_published_number_of_parameters(on_meta, count):
    found = count(on_meta(DPT, None))
    assert found == DPT.cost.params
    assert round(found / 1e6) == 343


def reference():
    return DPTForDepthEstimation(DPTConfig(**deepcopy(DPT.tiny["config"])))


def expected(model, pixels):
    maps = []
    model.neck.register_forward_hook(lambda module, given, result: maps.append(result[-1]))
    with torch.no_grad():
        depth = model(pixels).predicted_depth
    side = pixels.shape[-1] // 8
    return {"depth": depth[:, None], "features": maps[0].reshape(1, -1, side, 4, side, 4).mean((3, 5))}


def test_depth_and_features_are_the_librarys_own(through_the_hub, photo, seen, close):
    model = reference()
    expert = through_the_hub(DPT, model)
    input = expert.spec.input
    image = photo(input)
    side = {"height": input.size[0], "width": input.size[1]}
    pixels = DPTImageProcessor(size=side)(image, return_tensors="pt").pixel_values
    close(expert(seen(image, input)), expected(model, pixels))


def test_a_pooler_in_the_file_is_left_out(tmp_path, distinct, load_folder):
    distinct(reference()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    pooler = {f"dpt.pooler.dense.{name}": torch.ones(32) for name in ("weight", "bias")}
    save_file(load_file(file) | pooler, file)
    assert load_folder(DPT, tmp_path).module.state_dict().keys() == {
        f"model.{name}" for name in reference().state_dict()
    }


def test_preprocessing_is_what_the_library_declares():
    declared = DPTImageProcessor
    assert (list(DPT.input.mean), list(DPT.input.std)) == (list(declared.image_mean), list(declared.image_std))
    assert DPT.input.size == (declared.size["height"], declared.size["width"])
    assert declared.resample == PILImageResampling.BICUBIC and DPT.input.interpolation == "bicubic"
    assert not DPT.input.dynamic
