from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from tove_core.errors import WeightsError
from tove_experts.adapters.transformers_models import configured, current_names, skeleton
from tove_experts.depth_anything import DEPTH_ANYTHING


@pytest.fixture
def depth():
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(**deepcopy(DEPTH_ANYTHING.tiny["config"])))


def test_names_of_a_published_file_become_the_installed_librarys(depth):
    # Left as `convert_depth_anything_to_hf.py` of 2024 wrote them, right as transformers 5.23 has them.
    published = {
        "backbone.encoder.layer.3.attention.attention.query.weight": "backbone.encoder.layer.3.attention.q_proj.weight",
        "backbone.encoder.layer.3.attention.output.dense.bias": "backbone.encoder.layer.3.attention.o_proj.bias",
        "backbone.encoder.layer.3.layer_scale1.lambda1": "backbone.encoder.layer.3.layer_scale1.lambda1",
        "neck.fusion_stage.layers.0.residual_layer1.convolution2.bias": (
            "neck.fusion_stage.layers.0.residual_layer1.convolution2.bias"
        ),
    }
    assert set(published.values()) <= depth.state_dict().keys()
    state = {name: torch.tensor(float(at)) for at, name in enumerate(published)}
    before = dict(state)
    found = current_names(state, depth)
    assert found == {f"model.{new}": state[old] for old, new in published.items()}
    assert state == before


def test_current_names_stay_however_many_layers_the_file_has(depth):
    state = depth.state_dict()
    layer = "backbone.encoder.layer.0."
    state |= {name.replace(".0.", ".21.", 1): tensor for name, tensor in state.items() if name.startswith(layer)}
    found = current_names(state, depth, prefix="")
    assert found.keys() == state.keys()
    assert all(found[name] is state[name] for name in state)


def test_every_renamed_tensor_keeps_its_values(distinct, tmp_path):
    config = SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 40, 64], decoder_hidden_size=32)
    model = distinct(SegformerForSemanticSegmentation(config))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    found = current_names(stored, skeleton(SegformerForSemanticSegmentation, SegformerConfig()), prefix="")
    assert len(stored.keys() - found.keys()) > 100, "nothing had to be renamed: this shows nothing"
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_tensor_that_the_library_now_keeps_in_two_is_split():
    config = Dinov2Config(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, use_swiglu_ffn=True
    )
    model = skeleton(Dinov2Model, config)
    gate, up = (model.state_dict()[f"encoder.layer.0.mlp.{name}_proj.weight"] for name in ("gate", "up"))
    stored = torch.arange(float((gate.shape[0] + up.shape[0]) * 12)).reshape(-1, 12)
    found = current_names({"encoder.layer.0.mlp.weights_in.weight": stored}, model, prefix="")
    assert torch.equal(found["encoder.layer.0.mlp.gate_proj.weight"], stored[: gate.shape[0]])
    assert torch.equal(found["encoder.layer.0.mlp.up_proj.weight"], stored[gate.shape[0] :])


def test_only_what_lies_within_is_taken_and_what_is_dropped_is_gone(depth):
    state = {name: torch.zeros(1) for name in ("a.head.conv1.bias", "a.head.conv2.bias", "b.head.conv3.bias", "a")}
    found = current_names(state, depth, within="a.", drop=(r"conv2\.",))
    assert found.keys() == {"model.head.conv1.bias"}


def test_a_tensor_nobody_knows_is_not_passed_over(distinct, depth, tmp_path, load_folder):
    distinct(depth).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    state["head.conv4.bias"] = state.pop("head.conv3.bias")
    save_file(state, file)
    with pytest.raises(WeightsError) as caught:
        load_folder(DEPTH_ANYTHING, tmp_path)
    assert "1 missing (model.head.conv3.bias)" in str(caught.value)
    assert "1 unexpected (model.head.conv4.bias)" in str(caught.value)


def test_a_configuration_leaves_the_options_as_they_were():
    options = {"config": deepcopy(DEPTH_ANYTHING.tiny["config"])}
    made = configured(DepthAnythingConfig, options)
    made.backbone_config.hidden_size = 1
    assert options["config"] == DEPTH_ANYTHING.tiny["config"]


def test_a_skeleton_has_no_storage():
    model = skeleton(DepthAnythingForDepthEstimation, DepthAnythingConfig())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
