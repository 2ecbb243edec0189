from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.models.mask2former import modeling_mask2former

from tove_core.errors import WeightsError
from tove_experts.mask2former import MASK2FORMER


# Cheng et al., "Masked-attention Mask Transformer", table of COCO panoptic: 47M, 69M, 107M, 216M.
@pytest.mark.parametrize(("variant", "millions"), [("tiny", 47), ("small", 69), ("base", 107), ("large", 216)])
def test_every_size_has_the_published_number_of_parameters(variant, millions, on_meta, count):
    found = count(on_meta(MASK2FORMER, variant))
    assert found == MASK2FORMER.variant(variant).cost.params
    assert round(found / 1e6) == millions


class NoLoss(nn.Module):
    """In place of the loss, which is not used here and needs scipy; what of it is saved in files is kept."""

    def __init__(self, config, weight_dict):
        super().__init__()
        self.num_labels, self.eos_coef = config.num_labels, config.no_object_weight
        self.register_buffer("empty_weight", torch.ones(config.num_labels + 1))


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.setattr(modeling_mask2former, "Mask2FormerLoss", NoLoss)
    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**deepcopy(MASK2FORMER.tiny["config"])))


@pytest.fixture
def published(reference, distinct, tmp_path):
    """A folder with a file as the hub has it, written by transformers 4.

    With what the loss needs and the index tables of Swin's windows, without the backbone's last norm.
    """
    distinct(reference).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    block = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self"
    state = load_file(file)
    assert {f"{block}.query.weight", "criterion.empty_weight"} <= state.keys()
    unused = {name for name in state if ".swin.layernorm." in name}
    assert len(unused) == 2
    old = {name: tensor for name, tensor in state.items() if name not in unused}
    save_file(old | {f"{block}.relative_position_index": torch.zeros(4, 4)}, file)
    return tmp_path


def test_classes_and_features_are_the_librarys_own(reference, published, load_folder, photo, seen, close):
    expert = load_folder(MASK2FORMER, published)
    input = expert.spec.input
    assert input.size[0] != input.size[1]
    image = photo(input)
    processor = Mask2FormerImageProcessor(size={"height": input.size[0], "width": input.size[1]})
    with torch.no_grad():
        outputs = reference(processor(image, return_tensors="pt").pixel_values)
    # Query by query, class by class.
    shares = outputs.class_queries_logits.softmax(-1)[0, :, :-1]
    masks = 1 / (1 + (-outputs.masks_queries_logits[0]).exp())
    classes = torch.stack(
        [sum(share[label] * mask for share, mask in zip(shares, masks, strict=True)) for label in range(5)]
    )
    rows, columns = input.size[0] // 16, input.size[1] // 16
    features = outputs.pixel_decoder_last_hidden_state.reshape(1, -1, rows, 4, columns, 4).mean((3, 5))
    close(expert(seen(image, input)), {"classes": classes[None], "features": features})


def test_a_file_without_its_classifier_is_refused(published, load_folder):
    file = published / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("class_predictor")}, file)
    with pytest.raises(WeightsError, match=r"2 missing \(class_predictor\.weight, class_predictor\.bias\)"):
        load_folder(MASK2FORMER, published)


def test_preprocessing_is_what_the_library_declares():
    declared, input = Mask2FormerImageProcessor, MASK2FORMER.input
    assert (list(input.mean), list(input.std)) == (list(declared.image_mean), list(declared.image_std))
    assert input.patch == declared.size_divisor
    assert declared.resample == PILImageResampling.BILINEAR and input.interpolation == "bilinear"


def test_classes_are_as_many_as_the_classifier_gives():
    for name in MASK2FORMER.variants:
        spec = MASK2FORMER.variant(name)
        assert spec.outputs["classes"].channels == spec.options["config"]["num_labels"]


def test_a_file_of_today_fits_too(reference, through_the_hub):
    state = through_the_hub(MASK2FORMER, reference).module.state_dict()
    assert "model.pixel_level_module.encoder.swin.layernorm.weight" not in state
    assert torch.equal(state["class_predictor.bias"], reference.class_predictor.bias)
