"""What is declared, compared with timm, and what is computed, compared with calling timm directly."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, save_for_hf
from tove_expert_sam.adapter import build, convert
from tove_expert_sam.hooks import SAM

from tove_core import BuildContext, plugins
from tove_core.hub.load import load_expert

TINY = SAM.tiny["arguments"]


@pytest.fixture(scope="module")
def published():
    """A small encoder as timm makes it, with values that no initialisation gives, in place of published weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model("samvit_base_patch16", num_classes=0, **TINY).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", ["base", "large", "huge"])
def test_repository_licence_and_preprocessing_are_what_timm_declares(name):
    spec, cfg = SAM.variant(name), get_pretrained_cfg(f"samvit_{name}_patch16.sa1b")
    assert spec.weights.repo == cfg.hf_hub_id
    assert spec.weights.license.lower() == cfg.license
    assert (*spec.input.mean, *spec.input.std) == (*cfg.mean, *cfg.std)
    assert (3, *spec.input.size) == cfg.input_size and spec.input.interpolation == cfg.interpolation


def test_the_neck_is_what_timm_gives_on_the_same_weights(published):
    module = build(BuildContext(SAM, {"architecture": "samvit_base_patch16", "arguments": TINY})).eval()
    module.load_state_dict(convert(published.state_dict()))
    pixels = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = module(pixels)["neck"], published.forward_features(pixels)
    assert found.shape == (2, 256, 5, 5)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_weights_are_loaded_from_a_folder_that_timm_saved(published, tmp_path):
    save_for_hf(published, tmp_path, model_config=published.pretrained_cfg, safe_serialization=True)
    options = {"architecture": "samvit_base_patch16", **SAM.tiny}
    spec = SAM.variant("base").model_copy(update={"options": options, "input": SAM.tiny_input})
    expert, _ = load_expert(spec, name="sam", weights=tmp_path)
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(expert(pixels)["neck"], published.forward_features(pixels))


def test_it_is_reached_by_its_qualified_name_with_a_variant():
    found = plugins.registry().resolve("tove-expert-sam/sam:large")
    assert found.offer.source.distribution == "tove-expert-sam" and found.variant == "large"
    assert found.spec.options["architecture"] == "samvit_large_patch16"
