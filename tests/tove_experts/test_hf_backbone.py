from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from PIL import Image

from tove_core import plugins
from tove_core.errors import ConfigError, WeightsError
from tove_core.hub.load import load_expert
from tove_core.hub.lock import Lock
from tove_core.hub.view import resample
from tove_core.model import ToveModel

BASE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 60}
SIDE = {"height": 96, "width": 96}


def vit() -> tuple[Any, Any, int]:
    return T.ViTForImageClassification(T.ViTConfig(**BASE, image_size=96)), T.ViTImageProcessor(size=SIDE), 1


def dinov2() -> tuple[Any, Any, int]:
    config = T.Dinov2WithRegistersConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=84, patch_size=14, num_register_tokens=4
    )
    crop = {"height": 84, "width": 84}
    return T.Dinov2WithRegistersModel(config), T.BitImageProcessor(size={"shortest_edge": 90}, crop_size=crop), 5


def clip() -> tuple[Any, Any, int]:
    text = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**BASE, "image_size": 96, "patch_size": 16}
    config = T.CLIPConfig(vision_config=vision, text_config=text | ids, projection_dim=16)
    return T.CLIPModel(config), T.CLIPImageProcessor(size={"shortest_edge": 96}, crop_size=SIDE), 1


def siglip() -> tuple[Any, Any, int]:
    config = T.SiglipVisionConfig(**BASE, image_size=96, patch_size=16)
    return T.SiglipVisionModel(config), T.SiglipImageProcessor(size=SIDE), 0


def swin() -> tuple[Any, Any, int]:
    config = T.SwinConfig(image_size=96, embed_dim=12, depths=[1, 1, 2], num_heads=[1, 2, 3], window_size=3)
    return T.SwinForImageClassification(config), T.ViTImageProcessor(size=SIDE), 0


def resnet() -> tuple[Any, Any, int]:
    config = T.ResNetConfig(embedding_size=8, hidden_sizes=[12, 16, 24, 40], depths=[1, 1, 1, 1], layer_type="basic")
    return T.ResNetForImageClassification(config), T.ConvNextImageProcessor(size={"shortest_edge": 96}), 0


def convnext() -> tuple[Any, Any, int]:
    config = T.ConvNextConfig(hidden_sizes=[8, 12, 16, 40], depths=[1, 1, 1, 1])
    return T.ConvNextModel(config), T.ViTImageProcessor(size=SIDE), 0


KINDS = {kind.__name__: kind for kind in (vit, dinov2, clip, siglip, swin, resnet, convnext)}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Save a model, its weights moved from where they start, and its processor, as the library does."""

    def folder(kind: str) -> tuple[Path, Any, Any, int]:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(5)
            model, processor, prefix = KINDS[kind]()
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        place = tmp_path / f"{kind}.v1"
        model.save_pretrained(place)
        processor.save_pretrained(place)
        return place, model.eval(), processor, prefix

    return folder


def features(model: Any, pixels: torch.Tensor, prefix: int) -> torch.Tensor:
    """The library's own dense features of the part of the model that sees."""
    part = getattr(model, "vision_model", None) or getattr(model, model.base_model_prefix, None) or model
    state = part(pixel_values=pixels).last_hidden_state
    if state.ndim == 4:
        return state
    side = round((state.shape[1] - prefix) ** 0.5)
    return state[:, prefix:].transpose(1, 2).unflatten(2, (side, side))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_the_library_gives_the_librarys_features(kind: str, write: Any) -> None:
    place, model, _, prefix = write(kind)
    found = plugins.registry().resolve(f"hf-backbone:{place}")
    expert, digest = load_expert(found.spec, name=kind)
    assert digest is not None and found.variant == str(place)
    pixels = torch.randn(2, 3, *found.spec.input.size)
    with torch.no_grad():
        expected = features(model, pixels, prefix)
    given = expert(pixels)["patches"]
    assert given.std() > 0.01
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
    grid = found.spec.outputs["patches"]
    assert given.shape[1:] == (grid.channels, *(side // grid.stride for side in found.spec.input.size))
    assert found.spec.cost.params == sum(p.numel() for p in expert.parameters())


@pytest.mark.parametrize("pooled", [3, 2])
def test_tokens_in_units_are_put_where_they_are_in_the_image(pooled: int, tmp_path: Path) -> None:
    sizes = {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 4]}
    torch.manual_seed(7)
    model = T.HieraModel(T.HieraConfig(**sizes, num_query_pool=pooled, masked_unit_size=[8, 8])).eval()
    model.save_pretrained(tmp_path)
    T.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    spec = plugins.registry().resolve(f"hf-backbone:{tmp_path}").spec
    expert, _ = load_expert(spec, name="hiera")
    stride, pixels = spec.outputs["patches"].stride, torch.randn(1, 3, 64, 64)
    before = expert(pixels)["patches"]
    with torch.no_grad():
        tokens = model(pixels).last_hidden_state[0]
    torch.testing.assert_close(before.flatten(2)[0].T.sort(0).values, tokens.sort(0).values)
    side = 64 // stride
    for row, column in ((0, 0), (1, 0), (0, side - 1), (side - 1, side // 2)):
        changed = pixels.clone()
        changed[..., row * stride :, column * stride :][..., :stride, :stride] += 3
        moved = (expert(changed)["patches"] - before).square().sum(1)[0]
        assert divmod(int(moved.argmax()), side) == (row, column)


def uneven(kind: str) -> tuple[Any, Any, int]:
    """Models whose patches of 14 do not divide their 96 pixels: 6x6 of them, and 12 pixels that nothing reads."""
    sizes = {**BASE, "image_size": 96, "patch_size": 14}
    if kind == "siglip":
        return T.SiglipVisionModel(T.SiglipVisionConfig(**sizes)), T.SiglipImageProcessor(size=SIDE), 0
    if kind == "vit":
        return T.ViTModel(T.ViTConfig(**sizes)), T.ViTImageProcessor(size=SIDE), 1
    return T.CLIPVisionModel(T.CLIPVisionConfig(**sizes)), T.CLIPImageProcessor(crop_size=SIDE), 1


@pytest.mark.parametrize("kind", ["siglip", "vit", "clip"])
def test_a_model_whose_patches_do_not_divide_its_image_is_asked_for_whole_ones(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model, processor, prefix = uneven(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = plugins.registry().resolve(f"hf-backbone:{tmp_path}")
    assert found.spec.input.size == (84, 84) and found.spec.outputs["patches"].stride == 14
    expert, _ = load_expert(found.spec, name=kind)
    pixels = torch.randn(2, 3, 84, 84)
    # The published model, with whatever in the rows and columns that its convolution does not reach.
    whole = torch.randn(2, 3, 96, 96)
    whole[:, :, :84, :84] = pixels
    with torch.no_grad():
        expected = features(model, whole, prefix)
    given = expert(pixels)["patches"]
    assert given.shape == (2, 48, 6, 6) and given.std() > 0.01
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


def test_stages_that_do_not_divide_the_image_are_refused_with_what_works(tmp_path: Path) -> None:
    config = T.SwinConfig(image_size=88, embed_dim=12, depths=[1, 1, 2], num_heads=[1, 2, 3], window_size=3)
    T.SwinModel(config).save_pretrained(tmp_path)
    T.ViTImageProcessor(size={"height": 88, "width": 88}).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no map of the whole image; choose a backbone .*'siglip2'"):
        plugins.registry().resolve(f"hf-backbone:{tmp_path}")


@pytest.mark.parametrize("kind", ["vit", "siglip", "dinov2"])
def test_pixels_are_those_of_the_librarys_processor(kind: str, write: Any) -> None:
    place, _, processor, _ = write(kind)
    input = plugins.registry().resolve(f"hf-backbone:{place}").spec.input
    image = Image.effect_noise(input.size[::-1], 80).convert("RGB")
    # At the wanted size nothing is resampled or cropped: the normalisation alone is compared.
    expected = processor(image, return_tensors="pt", do_resize=False)["pixel_values"][0]
    given = resample(torch.from_numpy(np.array(image)).permute(2, 0, 1), "squash", input)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
    assert input.interpolation == {2: "bilinear", 3: "bicubic"}[int(processor.resample)]


def test_a_model_that_was_trained_on_bgr_sees_bgr(tmp_path: Path) -> None:
    sizes = {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 32], "num_attention_heads": 2}
    T.MobileViTModel(T.MobileViTConfig(image_size=64, **sizes)).save_pretrained(tmp_path)
    processor = T.MobileViTImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path)
    spec = plugins.registry().resolve(f"hf-backbone:{tmp_path}").spec
    expert, seen = load_expert(spec, name="mobilevit")[0], []
    expert.module.trunk.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    image = Image.merge("RGB", [Image.effect_noise((64, 64), 80) for _ in range(3)])
    expert(resample(torch.from_numpy(np.array(image)).permute(2, 0, 1), "squash", spec.input)[None])
    torch.testing.assert_close(seen[0]["pixel_values"], processor(image, return_tensors="pt")["pixel_values"])


def test_a_processor_that_does_more_to_pixels_than_is_offered_is_refused(tmp_path: Path) -> None:
    config = T.EfficientNetConfig(image_size=64, width_coefficient=0.1, hidden_dim=128)
    T.EfficientNetModel(config).save_pretrained(tmp_path)
    T.EfficientNetImageProcessor(size={"height": 64, "width": 64}, resample=3).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"EfficientNetImageProcessor\) that does more to pixels"):
        plugins.registry().resolve(f"hf-backbone:{tmp_path}")


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_a_folder_works_in_a_model_that_is_saved_and_loaded(toy: Any, write: Any, tmp_path: Path) -> None:
    place, *_ = write("swin")
    model = toy.build([{"name": f"hf-backbone:{place}", "alias": "swin"}, "toy-fine"], decoder=None)
    images = toy.pictures(2)
    model.save_pretrained(tmp_path / "saved")
    again = ToveModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.tokens(images), model.tokens(images))
    assert again.provenance.experts["swin"].variant == str(place)


def test_without_an_alias_the_dots_of_a_path_are_replaced(toy: Any, write: Any) -> None:
    place, *_ = write("vit")
    (key,) = toy.build([f"hf-backbone:{place}"], decoder=None).experts
    assert "." not in key and key.endswith("vit-v1")


def test_a_checkpoint_that_lacks_a_part_is_refused(write: Any) -> None:
    from safetensors.torch import load_file, save_file

    place, *_ = write("vit")
    state = load_file(place / "model.safetensors")
    state.pop("vit.layernorm.weight")
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing \(trunk\.layernorm\.weight\)"):
        load_expert(plugins.registry().resolve(f"hf-backbone:{place}").spec, name="vit")
    (place / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="has no weights for expert 'hf-backbone'"):
        load_expert(plugins.registry().resolve(f"hf-backbone:{place}").spec, name="vit")


def change(place: Path, file: str, **entries: Any) -> None:
    found = json.loads((place / file).read_text())
    (place / file).write_text(json.dumps(found | entries))


def test_what_is_no_backbone_is_answered_in_a_sentence(write: Any, tmp_path: Path) -> None:
    def ask(place: Path) -> None:
        plugins.registry().resolve(f"hf-backbone:{place}")

    place, *_ = write("vit")
    change(place, "preprocessor_config.json", resample=1)
    with pytest.raises(ConfigError, match="only bilinear"):
        ask(place)
    (place / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json"):
        ask(place)
    change(place, "config.json", model_type="made-up")
    with pytest.raises(ConfigError, match=r"'made-up'.*never run"):
        ask(place)
    (place / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(ConfigError, match=r"no model_type.*timm:NAME"):
        ask(place)
    (place / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"no readable config\.json"):
        ask(place)
    with pytest.raises(ConfigError, match="neither a folder nor a hub id"):
        ask(tmp_path / "nowhere" / "at" / "all")


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    T.BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    T.ViTImageProcessor(size=SIDE).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"\(bert\) gives no last_hidden_state for pixels alone"):
        plugins.registry().resolve(f"hf-backbone:{tmp_path}")


def test_a_hub_id_is_read_from_the_cache_where_the_network_is_forbidden(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match="not in the local cache"):
        plugins.registry().resolve("hf-backbone:someone/vit.tiny")
    place, model, _, prefix = write("vit")
    repo, commit = tmp_path / "cache" / "models--someone--vit.tiny", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    place.rename(repo / "snapshots" / commit)
    spec = plugins.registry().resolve("hf-backbone:someone/vit.tiny").spec
    assert spec.weights is not None and (spec.weights.repo, spec.weights.license) == (
        "someone/vit.tiny",
        "LicenseRef-unknown",
    )
    expert, _ = load_expert(spec, name="vit")
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = features(model, pixels, prefix)
    torch.testing.assert_close(expert(pixels)["patches"], expected, rtol=1e-5, atol=1e-5)


def as_main(place: Path, repo: Path, commit: str) -> None:
    """Put a folder's files into the cache as the present `main` of a repository."""
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir(exist_ok=True)
    place.rename(repo / "snapshots" / commit)


def test_a_member_of_the_hub_is_found_again_at_its_commit_configuration_and_weights(
    write: Any, toy_parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = tmp_path / "cache" / "models--someone--seen"
    as_main(write("vit")[0], repo, "a" * 40)
    model = toy_parts.build(["hf-backbone:someone/seen"], decoder=None)
    images = torch.rand(2, 3, 37, 53)
    tokens = model.tokens(images)
    model.save_pretrained(tmp_path / "saved")
    as_main(write("dinov2")[0], repo, "b" * 40)
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "another"))
    assert torch.equal(ToveModel.from_pretrained(tmp_path / "saved").tokens(images), tokens)
    assert Lock().pins() == {}


def test_a_member_of_a_relative_folder_is_found_again_from_elsewhere(
    write: Any, toy_parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write("vit")[0]
    monkeypatch.chdir(place.parent)
    model = toy_parts.build([f"hf-backbone:./{place.name}"], decoder=None)
    (key,) = model.experts
    images = torch.rand(2, 3, 37, 53)
    tokens = model.tokens(images)
    assert key == f"hf-backbone:./{place.name}".replace(".", "-")
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir("/")
    loaded = ToveModel.from_pretrained(tmp_path / "saved")
    assert list(loaded.experts) == [key] and torch.equal(loaded.tokens(images), tokens)
