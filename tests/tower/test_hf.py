from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tove_core.config import ClipConfig
from tove_core.errors import ConfigError, WeightsError
from tove_core.tower import load_tower, source
from tove_core.tower.text import TextVectors

VISION = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 40,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 9,
    "bos_token_id": 59,
    "eos_token_id": 60,
    "pad_token_id": 0,
}


def clip(**vision):
    torch.manual_seed(0)
    vision_config = VISION | {"projection_dim": 20} | vision
    return CLIPModel(
        CLIPConfig(vision_config=vision_config, text_config=TEXT | {"projection_dim": 20}, projection_dim=20)
    )


def siglip():
    torch.manual_seed(0)
    return SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT | {"hidden_size": 48}))


def image_tower(kind, config, **more):
    torch.manual_seed(0)
    return kind(config(**VISION, **more))


def load(folder, **config):
    return load_tower(ClipConfig(name=f"hf:{folder}", **config))


def states(model, pixels, **kwargs):
    with torch.no_grad():
        return getattr(model, "vision_model", model)(pixels, output_hidden_states=True, **kwargs).hidden_states


@pytest.mark.parametrize(("layer", "state"), [(-2, -2), (-1, 3), (0, 1), (1, 2)])
def test_clip_tokens_are_the_hidden_states_without_the_class_token(hf_folder, layer, state):
    folder, model = hf_folder(clip())
    pixels = torch.randn(2, 3, 40, 40)
    tokens = load(folder, layer=layer)(pixels)
    expected = states(model, pixels)[state]
    torch.testing.assert_close(tokens.patches, expected[:, 1:])
    torch.testing.assert_close(tokens.cls, expected[:, 0])


def test_siglip_tokens_are_all_patches(hf_folder):
    folder, model = hf_folder(siglip())
    pixels = torch.randn(2, 3, 40, 40)
    tower = load(folder)
    tokens = tower(pixels)
    assert tokens.cls is None and tower.activation == "gelu_tanh"
    torch.testing.assert_close(tokens.patches, states(model, pixels)[-2])
    assert tokens.patches.shape == (2, 25, 48)


@pytest.mark.parametrize("build", [clip, siglip])
def test_image_embeddings_are_the_models_own(hf_folder, one_pass, build):
    folder, model = hf_folder(build())
    pixels = torch.randn(2, 3, 40, 40)
    tower = load(folder)
    expected = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(tower.embed(pixels), expected)
    assert expected.shape == (2, tower.embed_width)
    one_pass(tower, pixels)
    one_pass(load(folder, layer=-1), pixels)


def test_image_towers_alone_are_read(hf_folder, one_pass, tmp_path):
    pixels = torch.randn(2, 3, 40, 40)
    cases = [
        (image_tower(CLIPVisionModelWithProjection, CLIPVisionConfig, projection_dim=20), 20),
        (image_tower(SiglipVisionModel, SiglipVisionConfig), 48),
        (image_tower(CLIPVisionModel, CLIPVisionConfig), None),
    ]
    for i, (model, width) in enumerate(cases):
        folder, _ = hf_folder(model)
        folder = folder.rename(tmp_path / str(i))
        tower = load(folder)
        torch.testing.assert_close(tower(pixels).patches, states(model, pixels)[-2][:, -25:])
        assert tower.embed_width == width
        with pytest.raises(ConfigError, match="no text tower"):
            tower.embed_text(["a cat"])
        assert tower.text_width is None
        if width is None:
            with pytest.raises(ConfigError, match="no image projection"):
                tower.embed(pixels)
            with pytest.raises(ConfigError, match="no image projection"):
                tower.features_and_embedding(pixels)
        else:
            assert tower.embed(pixels).shape == (2, width)
            one_pass(tower, pixels)


def test_later_blocks_are_not_computed(hf_folder):
    tower = load(hf_folder(clip())[0])
    with torch.no_grad():
        for parameter in tower.model.vision_model.encoder.layers[2].parameters():
            parameter.fill_(float("nan"))
    pixels = torch.randn(1, 3, 40, 40)
    assert tower(pixels).patches.isfinite().all() and tower.embed(pixels).isnan().all()


@pytest.mark.parametrize(("act", "name"), [("gelu", "gelu"), ("quick_gelu", "quick_gelu"), ("silu", "other")])
def test_the_activation_is_measured(hf_folder, act, name):
    assert load(hf_folder(clip(hidden_act=act))[0]).activation == name


@pytest.mark.parametrize("build", [clip, siglip])
def test_another_image_size_interpolates_as_transformers_does(hf_folder, build):
    folder, model = hf_folder(build())
    tower = load(folder, image_size=56)
    pixels = torch.randn(2, 3, 56, 56)
    expected = states(model, pixels, interpolate_pos_encoding=True)[-2]
    torch.testing.assert_close(tower(pixels).patches, expected[:, -49:])
    assert tower.grid == (7, 7) and tower.input.size == (56, 56)
    assert tower.embed(pixels).isfinite().all()
    with pytest.raises(ConfigError, match="multiple of the patch"):
        load(folder, image_size=57)


def test_a_trainable_copy_trains_tower_and_projection_but_not_text(hf_folder):
    copy = load(hf_folder(clip())[0]).trainable_copy()
    trainable = {name for name, p in copy.named_parameters() if p.requires_grad}
    assert "model.visual_projection.weight" in trainable
    assert trainable and not any(name.startswith("model.text") for name in trainable)
    copy.embed(torch.randn(1, 3, 40, 40)).sum().backward()
    assert copy.model.vision_model.embeddings.class_embedding.grad.abs().sum() > 0


def test_the_preprocessing_comes_from_the_processor(hf_folder):
    folder, _ = hf_folder(clip(), resample=2, size={"height": 40, "width": 40})
    tower = load(folder)
    assert tower.input.mean == (0.5, 0.4, 0.3) and tower.input.std == (0.2, 0.3, 0.4)
    assert tower.input.interpolation == "bilinear" and tower.resize_mode == "squash"
    (folder / "preprocessor_config.json").rename(folder / "old.json")
    whole = {"image_processor": json.loads((folder / "old.json").read_text())}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    assert load(folder).input == tower.input


def test_preprocessing_is_never_guessed(hf_folder):
    folder, _ = hf_folder(clip())
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="image_mean"):
        load(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="preprocessor_config"):
        load(folder)


def test_random_weights_follow_the_seed(hf_folder):
    folder, _ = hf_folder(clip())
    (folder / "model.safetensors").unlink()
    config = ClipConfig(name=f"hf:{folder}")
    one, again, other = (load_tower(config, weights="random", seed=s) for s in (1, 1, 2))
    pixels = torch.randn(1, 3, 40, 40)
    assert torch.equal(one(pixels).patches, again(pixels).patches)
    assert not torch.allclose(one(pixels).patches, other(pixels).patches)


def test_sharded_weights_are_read_and_hashed(hf_folder):
    folder, model = hf_folder(clip())
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    pixels = torch.randn(1, 3, 40, 40)
    tower = load(folder)
    torch.testing.assert_close(tower(pixels).patches, states(model, pixels)[-2][:, 1:])
    assert len(tower.weights_sha256) == 64


def test_missing_parameters_are_an_error_and_not_random_numbers(hf_folder):
    from safetensors.torch import load_file, save_file

    folder, _ = hf_folder(clip())
    state = load_file(folder / "model.safetensors")
    del state["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack 1 of its parameters.*fc1\.weight"):
        load(folder)


def test_truncated_and_pickled_weights_are_refused(hf_folder):
    folder, model = hf_folder(clip())
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(folder)
    file.unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="safetensors only"):
        load(folder)


@pytest.mark.parametrize("build", [clip, siglip])
def test_text_is_embedded_as_the_model_was_trained(hf_folder, build):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<unk>": 1, "a": 2, "red": 3, "cube": 4, "<eos>": 60}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing("$0 <eos>", None, [("<eos>", 60)])
    folder, model = hf_folder(build())
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    # CLIP pools at the end token, so padding after it changes nothing; SigLIP pools at the last place of full length.
    ids = torch.tensor([[2, 3, 4, 60, 0, 0, 0, 0, 0], [4, 60, 0, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids).pooler_output
    tower = load(folder)
    torch.testing.assert_close(tower.embed_text(["a red cube", "cube"]), expected, rtol=1e-4, atol=1e-5)
    assert tower.token_ids(["a red cube", "cube"]) == ids.tolist() and tower.text_width == expected.shape[1]
    # Bit for bit the same however long its neighbours are.
    assert torch.equal(TextVectors(tower)(["cube", "a red cube"])[0], TextVectors(tower)(["cube"])[0])


def test_a_missing_tokenizer_is_an_error_only_when_text_is_wanted(hf_folder):
    tower = load(hf_folder(clip())[0])
    with pytest.raises(ConfigError, match="tokenizer"):
        tower.embed_text(["a cat"])


def test_another_kind_of_model_is_refused(hf_folder):
    folder, _ = hf_folder(Dinov2Model(Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2)))
    with pytest.raises(ConfigError, match="dinov2"):
        load(folder)


def test_a_hub_name_is_read_through_the_downloader(monkeypatch, hf_folder):
    folder, model = hf_folder(clip())
    asked = []

    def fetch(repo, file, revision):
        asked.append(file)
        return folder / file

    monkeypatch.setattr(source, "fetch", fetch)
    pixels = torch.randn(1, 3, 40, 40)
    tokens = load_tower(ClipConfig(name="hf:someone/clip"))(pixels)
    torch.testing.assert_close(tokens.patches, states(model, pixels)[-2][:, 1:])
    assert set(asked) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_no_bar_of_transformers_reaches_the_terminal(hf_folder, tmp_path, capfd):
    from transformers.utils import logging

    from tove_core.export.hf_dir import write_hf

    folder, _ = hf_folder(CLIPVisionModel(CLIPVisionConfig(**VISION)))
    capfd.readouterr()
    logging.enable_progress_bar()
    write_hf(load_tower(ClipConfig(name=f"hf:{folder}")), tmp_path / "out")
    assert "it/s" not in capfd.readouterr().err and logging.is_progress_bar_enabled()
