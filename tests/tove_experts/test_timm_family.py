from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf

from tove_core import plugins
from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.hub.load import load_expert
from tove_core.model import ToveModel
from tove_core.spec import BuildContext, Grid
from tove_experts.adapters.timm_backbone import build, convert

# Of each kind of geometry one: plain, with registers, staged convolutions, channels last, windows, masks, few channels.
KINDS = [
    "test_vit.r160_in1k",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "test_resnet.r160_in1k",
    "test_efficientnet.r160_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "maxvit_nano_rw_256.sw_in1k",
    "hiera_tiny_224.mae",
    "densenet121.ra_in1k",
    "mobilenetv3_small_050.lamb_in1k",
]


def resolve(name: str) -> Any:
    return plugins.registry().resolve(f"timm:{name}").spec


@pytest.mark.parametrize("name", KINDS)
def test_what_a_member_declares_is_what_timm_declares_and_what_it_does(name: str) -> None:
    spec, config = resolve(name), timm.get_pretrained_cfg(name)
    assert config is not None and spec.weights.repo == config.hf_hub_id == f"timm/{name}"
    assert spec.weights.license.lower() == config.license
    assert (spec.input.mean, spec.input.std, spec.input.interpolation) == (
        config.mean,
        config.std,
        config.interpolation,
    )
    side = config.input_size[1]
    assert spec.input.size[0] - side in range(0, spec.outputs["patches"].stride), "at most rounded up to the stride"
    module = build(BuildContext(spec, spec.options)).eval()
    grid = spec.outputs["patches"]
    with torch.no_grad():
        patches = module(torch.randn(1, 3, *spec.input.size))["patches"]
    assert patches.shape == (1, grid.channels, *(side // grid.stride for side in spec.input.size))
    assert spec.cost.params == sum(p.numel() for p in module.parameters())


def test_a_network_whose_patches_do_not_divide_its_image_is_asked_for_whole_ones() -> None:
    name = "vit_so400m_patch14_siglip_gap_384.webli"
    spec, published = resolve(name), timm.get_pretrained_cfg(name)
    assert published.input_size == (3, 384, 384) and spec.input.size == (378, 378)
    assert spec.outputs["patches"] == Grid(channels=1152, stride=14) and not spec.input.dynamic
    # The same architecture, narrower: its state is that of the published size, and so is what it says of 27x27 patches.
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    options = spec.options | {"arguments": spec.options["arguments"] | small}
    original = timm.create_model(name.partition(".")[0], **small).eval()
    module = build(BuildContext(spec, options)).eval()
    module.load_state_dict(convert(original.state_dict()))
    pixels, whole = torch.randn(1, 3, 378, 378), torch.randn(1, 3, 384, 384)
    whole[:, :, :378, :378] = pixels
    with torch.no_grad():
        expected = original.forward_features(whole).transpose(1, 2).unflatten(2, (27, 27))
        torch.testing.assert_close(module(pixels)["patches"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in KINDS[:2]])
def test_a_member_is_dynamic_only_if_another_size_works(name: str) -> None:
    spec = resolve(name)
    module, stride = build(BuildContext(spec, spec.options)).eval(), spec.outputs["patches"].stride
    try:
        with torch.no_grad():
            works = module(torch.randn(1, 3, 5 * stride, 8 * stride))["patches"].shape[2:] == (5, 8)
    except Exception:
        works = False
    assert not spec.input.dynamic or works


def test_a_name_without_a_tag_means_timms_default_weights() -> None:
    assert resolve("test_resnet") == resolve("test_resnet.r160_in1k")


def test_fewer_than_32_channels_are_not_normalised_by_position() -> None:
    assert resolve("test_resnet.r160_in1k").outputs["patches"].norm == "position"
    assert resolve("test_byobnet.r160_in1k").outputs["patches"].channels >= 32


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50_a1", "no model 'resnet50_a1'; did you mean .*resnet50"),
        ("resnet18.a1_in1", "no weights 'a1_in1'; it has: resnet18.a1_in1k"),
        ("legacy_senet154", "no weights on the hub"),
        ("inception_v3", "gives no map of the whole image"),
        ("crossvit_9_240", "gives no map of the whole image"),
        ("../resnet18", "has no model"),
    ],
)
def test_a_name_that_cannot_be_had_is_answered_in_a_sentence(name: str, words: str) -> None:
    with pytest.raises(UnknownExpertError, match=words):
        resolve(name)


def test_the_family_itself_is_listed_and_cannot_be_built(toy: Any) -> None:
    with pytest.raises(UnknownExpertError, match="name the member after a colon"):
        toy.build(["timm"], weights="random")
    assert plugins.experts()["timm"].spec.family is not None


def test_a_licence_timm_does_not_know_is_a_reference_to_nothing_better() -> None:
    unknown = next(m for m in timm.list_models(pretrained=True)
                   if (c := timm.get_pretrained_cfg(m)) and c.hf_hub_id and c.license == "unknown")  # fmt: skip
    weights = resolve(unknown).weights
    assert (weights.license, weights.commercial) == ("LicenseRef-unknown", None)


def test_a_folder_timm_wrote_loads_and_gives_timms_features(tmp_path: Path) -> None:
    spec = resolve("test_vit.r160_in1k")
    model = timm.create_model("test_vit.r160_in1k").eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    expert, _ = load_expert(spec, name="t", weights=tmp_path)
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = model.forward_features(pixels)[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (10, 10))
    torch.testing.assert_close(expert(pixels)["patches"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_members_work_in_a_model_that_is_saved_detached_and_loaded(toy: Any, tmp_path: Path) -> None:
    names = ["timm:test_resnet.r160_in1k", {"name": "tove-core/timm:test_vit.r160_in1k", "alias": "vit"}]
    model = toy.build(names, weights="random", decoder=None)
    assert list(model.experts) == ["timm:test_resnet-r160_in1k", "vit"]
    images = toy.pictures(2)
    model.save_pretrained(tmp_path / "whole", full=True)
    model.save_pretrained(tmp_path / "plain")
    for place in ("whole", "plain"):
        again = ToveModel.from_pretrained(tmp_path / place)
        assert torch.equal(again.tokens(images), model.tokens(images))
    model.detach("timm:test_resnet-r160_in1k")
    assert model.active_experts == ["vit"]


def test_two_members_whose_names_differ_in_dots_alone_need_an_alias(toy: Any) -> None:
    with pytest.raises(ConfigError, match="alias"):
        toy.build(["timm:test_vit.r160_in1k", "timm:test_vit-r160_in1k"], weights="random")
