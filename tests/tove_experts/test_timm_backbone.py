from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from tove_core.errors import WeightsError
from tove_core.hub.load import load_expert
from tove_core.spec import BuildContext, ExpertSpec
from tove_experts import timm_variants
from tove_experts.adapters.timm_backbone import TimmBackbone, build
from tove_experts.hooks import tove_experts

EXPERTS = {spec.name: spec for spec in tove_experts() if spec.factory == timm_variants.BUILD and spec.variants}
VARIANTS = [(name, variant) for name, spec in EXPERTS.items() for variant in spec.variants]


def tiny(name: str, variant: str | None = None) -> ExpertSpec:
    """The expert with the small architecture its spec names for checks; its channels may differ from the promised."""
    spec = EXPERTS[name].variant(variant)
    options = spec.options | (spec.tiny or {})
    grid = spec.outputs["patches"]
    with torch.no_grad():
        found = build(BuildContext(spec, options)).eval()(torch.zeros(1, 3, *spec.tiny_input.size))["patches"]
    outputs = {"patches": grid.model_copy(update={"channels": found.shape[1], "norm": "fixed"})}
    return spec.model_copy(update={"options": options, "input": spec.tiny_input, "outputs": outputs})


def published(spec: ExpertSpec, seed: int = 3) -> nn.Module:
    """timm's own model, heads and all, with weights that are no model's initial ones."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = timm.create_model(spec.options["architecture"], **spec.options.get("arguments", {}))
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def dense(model: nn.Module, pixels: Tensor) -> Tensor:
    """The last feature map by timm's other way, `forward_features`: [B, C, h, w], [B, N, C] or [B, h, w, C]."""
    features = model.forward_features(pixels)
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else features
    patch = model.patch_embed.patch_size[0]
    tokens = features[:, model.num_prefix_tokens :].transpose(1, 2)
    return tokens.unflatten(2, (pixels.shape[2] // patch, pixels.shape[3] // patch))


def pixels_for(spec: ExpertSpec, size: tuple[int, int] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 3, *(size or spec.input.size), generator=generator)


@pytest.mark.parametrize("name", EXPERTS)
def test_a_folder_timm_wrote_loads_through_the_hub_and_gives_timms_features(name: str, tmp_path: Path) -> None:
    spec = tiny(name)
    model = published(spec)
    save_for_hf(model, tmp_path, safe_serialization=True)
    expert, digest = load_expert(spec, name=name, weights=tmp_path)
    assert digest is not None
    pixels = pixels_for(spec)
    with torch.no_grad():
        expected = dense(model, pixels)
    given = expert(pixels)["patches"]
    assert given.std() > 0.1, "a map that says nothing would agree with anything"
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, spec in EXPERTS.items() if spec.input.dynamic])
def test_other_sizes_work_and_height_and_width_keep_their_order(name: str) -> None:
    spec = tiny(name)
    model = published(spec)
    module = TimmBackbone(spec.options["architecture"], spec.options["arguments"]).eval()
    module.load_state_dict({f"trunk.{key}": value for key, value in model.state_dict().items()})
    stride = spec.outputs["patches"].stride
    pixels = pixels_for(spec, (3 * stride, 7 * stride))
    with torch.no_grad():
        given, expected = module(pixels)["patches"], dense(model, pixels)
    assert given.shape[2:] == (3, 7)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, spec in EXPERTS.items() if spec.options])
def test_resampling_positions_changes_nothing_at_the_trained_size(name: str) -> None:
    spec = tiny(name)
    arguments = spec.options["arguments"]
    fixed = TimmBackbone(spec.options["architecture"], arguments | {"dynamic_img_size": False}).eval()
    free = TimmBackbone(spec.options["architecture"], arguments).eval()
    free.load_state_dict(fixed.state_dict())
    side = arguments["img_size"]
    pixels = pixels_for(spec, (side, side))
    with torch.no_grad():
        torch.testing.assert_close(free(pixels)["patches"], fixed(pixels)["patches"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_runs_small_with_its_own_stride(name: str, variant: str) -> None:
    spec = tiny(name, variant)
    module = build(BuildContext(spec, spec.options)).eval()
    with torch.no_grad():
        patches = module(pixels_for(spec))["patches"]
    stride = spec.outputs["patches"].stride
    assert patches.shape[2:] == tuple(side // stride for side in spec.input.size)
    assert patches.isfinite().all()


def test_registers_and_class_token_are_left_out() -> None:
    # One more token than there are patches would make no map; one that is shifted would not be timm's.
    spec = tiny("dinov2", "small-reg")
    assert published(spec).num_prefix_tokens == 5
    module = build(BuildContext(spec, spec.options)).eval()
    base = pixels_for(spec)[:1]
    moved = base.clone()
    moved[..., :14, :14] += 3
    with torch.no_grad():
        change = (module(moved)["patches"] - module(base)["patches"]).abs().sum(1)[0]
    assert change.argmax() == 0, "what changes at the first patch is seen most at the first position"


def test_a_classifier_in_the_file_is_left_out_and_nothing_else_is(tmp_path: Path) -> None:
    spec = tiny("convnext-clip")
    state = {key: value.contiguous() for key, value in published(spec).state_dict().items()}
    assert "head.fc.weight" in state
    save_file(state | {"stray.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"architecture: 1 unexpected \(trunk\.stray\.weight\)"):
        load_expert(spec, name="convnext-clip", weights=tmp_path)
    del state["stages.0.blocks.0.norm.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing \(trunk\.stages\.0\.blocks\.0\.norm\.weight"):
        load_expert(spec, name="convnext-clip", weights=tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    small = tiny("dinov2")
    other: dict[str, Any] = small.options | {"arguments": small.options["arguments"] | {"embed_dim": 60}}
    save_for_hf(published(small.model_copy(update={"options": other})), tmp_path, safe_serialization=True)
    with pytest.raises(WeightsError, match="of another shape"):
        load_expert(small, name="dinov2", weights=tmp_path)


def test_a_state_the_expert_gave_itself_loads_again(tmp_path: Path) -> None:
    spec = tiny("eva02-clip")
    first, _ = load_expert(spec, name="eva02-clip", weights="random", seed=1)
    save_file(dict(first.module.state_dict()), tmp_path / "state.safetensors")
    second, _ = load_expert(spec, name="eva02-clip", weights="random", seed=2, state=tmp_path / "state.safetensors")
    pixels = pixels_for(spec)
    assert torch.equal(first(pixels)["patches"], second(pixels)["patches"])
