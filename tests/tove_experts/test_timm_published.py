"""That each variant has the parameters, operations and outputs it states, tests/testing/test_built_ins.py shows."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.data.config import resolve_data_config
from torch import nn

from tove_experts import timm_variants
from tove_experts.hooks import tove_experts

EXPERTS = {spec.name: spec for spec in tove_experts() if spec.factory == timm_variants.BUILD and spec.variants}
VARIANTS = [(name, variant) for name, spec in EXPERTS.items() for variant in spec.variants]

LICENSES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "LicenseRef-DINOv3": "dinov3-license",
            "LicenseRef-NVIDIA-Open-Model": "nvidia-open-model-license"}  # fmt: skip

# Millions of parameters with the classifier of the model's default tag, from timm's repository:
# results/benchmark-infer-amp-nchw-pt291-cu130-5090.csv at commit aa4b5850c1543fa488abf260f18390eda46cf85d.
TIMM = {
    "convnext_base": 88.59, "convnext_large": 197.77, "convnext_large_mlp": 200.13, "convnext_small": 50.22,
    "convnext_tiny": 28.59, "convnext_xxlarge": 846.47, "eva02_base_patch14_224": 85.76,
    "eva02_base_patch14_448": 87.12, "eva02_base_patch16_clip_224": 86.26, "eva02_large_patch14_224": 303.27,
    "eva02_large_patch14_448": 305.08, "eva02_large_patch14_clip_224": 304.11, "eva02_large_patch14_clip_336": 304.43,
    "eva02_small_patch14_224": 21.62, "eva02_tiny_patch14_224": 5.5, "samvit_base_patch16": 89.67,
    "samvit_huge_patch16": 637.03, "samvit_large_patch16": 308.28, "vit_base_patch14_dinov2": 86.58,
    "vit_base_patch14_reg4_dinov2": 86.58, "vit_base_patch16_dinov3": 85.64, "vit_base_patch16_siglip_gap_224": 85.8,
    "vit_base_patch16_siglip_gap_384": 86.09, "vit_base_patch16_siglip_gap_512": 86.43,
    "vit_giant_patch14_dinov2": 1136.48, "vit_giant_patch14_reg4_dinov2": 1136.48,
    "vit_giantopt_patch16_siglip_gap_384": 1135.33, "vit_huge_plus_patch16_dinov3": 840.51,
    "vit_large_patch14_dinov2": 304.37, "vit_large_patch14_reg4_dinov2": 304.37, "vit_large_patch16_dinov3": 303.08,
    "vit_large_patch16_siglip_gap_256": 303.36, "vit_large_patch16_siglip_gap_384": 303.69,
    "vit_large_patch16_siglip_gap_512": 304.15, "vit_pe_spatial_base_patch16_512": 86.43,
    "vit_pe_spatial_gigantic_patch14_448": 1851.89, "vit_pe_spatial_large_patch14_448": 303.96,
    "vit_pe_spatial_small_patch16_512": 21.98, "vit_pe_spatial_tiny_patch16_512": 5.68,
    "vit_small_patch14_dinov2": 22.06, "vit_small_patch14_reg4_dinov2": 22.06, "vit_small_patch16_dinov3": 21.59,
    "vit_small_plus_patch16_dinov3": 28.68, "vit_so400m_patch14_siglip_gap_224": 412.44,
    "vit_so400m_patch14_siglip_gap_378": 412.99, "vit_so400m_patch16_siglip_gap_384": 413.02,
    "vit_so400m_patch16_siglip_gap_512": 413.53,
}  # fmt: skip

# Not in that file. Millions, with the tolerance their rounding asks for.
ELSEWHERE = {
    "vit_7b_patch16_dinov3": (6716, 0.5),  # README of facebookresearch/dinov3, table of models
    # Abstract of arXiv:2303.15389: 5.0B with the text tower, which open_clip's EVA02-E-14-plus makes 694M.
    "eva02_enormous_patch14_clip_224": (4306, 50),
    # C-RADIO's cards count adaptors to its teachers, which timm leaves out; the transformers themselves are those of
    # DINOv2 and SigLIP 2 above, but for positions, class and register tokens.
    "vit_base_patch16_radio_v3": (86.5, 1), "vit_large_patch16_radio_v3": (304.3, 1),
    "vit_giant_patch16_radio_v3": (1136.3, 1), "vit_so400m_patch16_radio_v4": (413.3, 1),
    "vit_huge_patch16_radio_v3": (632, 1), "vit_huge_patch16_radio_v4": (632, 1),  # ViT-H of arXiv:2010.11929: 632M
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def without_initial_values():
    """Leave out what takes most of the time and means nothing on the meta device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor)
        yield


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_repository_licence_and_preprocessing_are_those_timm_declares(name, variant):
    spec = EXPERTS[name].variant(variant)
    config = timm.get_pretrained_cfg(spec.options["architecture"])
    assert spec.weights is not None and config is not None
    assert (spec.weights.repo, spec.weights.file) == (config.hf_hub_id, "model.safetensors")
    assert config.hf_hub_filename is None, "the weights lie under another name"
    assert LICENSES[spec.weights.license] == config.license
    data = resolve_data_config(pretrained_cfg=config.to_dict())
    assert (3, *spec.input.size) == data["input_size"]
    assert (spec.input.mean, spec.input.std, spec.input.interpolation) == (
        data["mean"],
        data["std"],
        data["interpolation"],
    )
    assert spec.input.range == (0, 1)


def test_every_variant_states_its_parameters_and_operations():
    costs = {f"{name}:{variant}": EXPERTS[name].variant(variant).cost for name, variant in VARIANTS}
    assert [name for name, cost in costs.items() if cost is None or not cost.params or not cost.flops] == []


@pytest.mark.parametrize("architecture", sorted({EXPERTS[n].variant(v).options["architecture"] for n, v in VARIANTS}))
def test_the_architecture_has_the_published_size(architecture):
    bare = architecture.partition(".")[0]
    with torch.device("meta"):
        millions = count(timm.create_model(bare)) / 1e6
    published, rounding = ELSEWHERE.get(bare) or (TIMM[bare], 0.0051)
    assert millions == pytest.approx(published, abs=rounding)


@pytest.mark.parametrize("name", EXPERTS)
def test_the_spec_without_a_variant_describes_the_default_one(name):
    spec = EXPERTS[name]
    default = spec.variant()
    assert (spec.input, spec.outputs) == (default.input, default.outputs)
