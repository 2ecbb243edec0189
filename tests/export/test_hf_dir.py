from __future__ import annotations

import json
import os
import subprocess
import sys

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from transformers import AutoTokenizer, CLIPModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from tove_core.config import ClipConfig
from tove_core.errors import ConfigError
from tove_core.export.clip import write_clip
from tove_core.export.compare import probe_pixels
from tove_core.export.hf_dir import clip_tokenizer, write_hf
from tove_core.tower import load_tower
from tove_core.tower.open_clip import OpenClipTower

VISION = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 40,
    "patch_size": 8,
}
READER = """
import sys, torch
from transformers import CLIPModel
given = torch.load("data.pt", weights_only=True)
for name in sys.argv[1:]:
    model = CLIPModel.from_pretrained(name).eval()
    with torch.no_grad():
        image = model.get_image_features(pixel_values=given["pixels"]).pooler_output
        text = model.get_text_features(input_ids=given["ids"]).pooler_output
    torch.save({"image": image, "text": text}, f"{name}.pt")
assert not any(name.startswith(("tove", "open_clip")) for name in sys.modules)
"""


def encode(tower, pixels, ids):
    with torch.no_grad():
        return tower.model.encode_image(pixels), tower.model.encode_text(ids)


def test_a_process_with_transformers_alone_computes_the_same(make_tower, tmp_path):
    towers = {"gelu": make_tower(), "quick_gelu": make_tower(quick_gelu=True)}
    for name, tower in towers.items():
        assert write_hf(tower, tmp_path / name).activation == name
    pixels, ids = torch.randn(2, 3, 40, 40), torch.randint(0, 61, (4, 9))
    torch.save({"pixels": pixels, "ids": ids}, tmp_path / "data.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", READER, *towers], check=True, cwd=tmp_path, env=environment)
    for name, tower in towers.items():
        there = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        image, text = encode(tower, pixels, ids)
        torch.testing.assert_close(there["image"], image, rtol=1e-4, atol=5e-5)
        torch.testing.assert_close(there["text"], text, rtol=1e-4, atol=5e-5)
        assert json.loads((tmp_path / name / "config.json").read_text())["vision_config"]["hidden_act"] == name


def test_image_towers_read_the_same_folder(make_tower, tmp_path):
    tower = make_tower()
    write_hf(tower, tmp_path / "out")
    pixels = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        alone = CLIPVisionModel.from_pretrained(tmp_path / "out").eval()(pixels, output_hidden_states=True)
        projected = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "out").eval()(pixels).image_embeds
    torch.testing.assert_close(alone.hidden_states[-2][:, 1:], tower(pixels).patches, rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(projected, tower.embed(pixels), rtol=1e-4, atol=5e-5)


def test_each_tower_keeps_its_own_activation(make_tower, tmp_path):
    tower = make_tower()
    for block in tower.model.visual.transformer.resblocks:
        block.mlp.gelu = QuickGELU()
    write_hf(OpenClipTower.wrap(tower.model, tower.model_cfg), tmp_path / "out")
    config = CLIPModel.from_pretrained(tmp_path / "out").config
    assert config.vision_config.hidden_act == "quick_gelu" and config.text_config.hidden_act == "gelu"


def test_a_separate_text_tower_that_pools_at_its_end_token_is_converted(make_tower, tmp_path):
    tower = make_tower(custom_text=True, text={"pool_type": "eos", "eos_id": 7, "proj_bias": False})
    write_hf(tower, tmp_path / "out")
    ids = torch.tensor([[9, 30, 7, 50, 60, 0, 0, 0, 0]])
    with torch.no_grad():
        there = CLIPModel.from_pretrained(tmp_path / "out").eval().get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(there, tower.model.encode_text(ids), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": {"pool_type": "avg"}}, "class token"),
        ({"vision": {"no_ln_pre": True}}, "no norm before"),
        ({"vision": {"image_size": [40, 24]}}, "not square"),
        ({"vision": {"ls_init_value": 0.1}}, "not the plain ones"),
        ({"vision": {"scale_fc": True}}, "not the plain ones"),
        ({"text": {"no_causal_mask": True}, "custom_text": True}, "not causal"),
        ({"text": {"pool_type": "last"}, "custom_text": True}, "not pooled at their end"),
        ({"text": {"proj_bias": True}, "custom_text": True}, "bias"),
        ({"text": {"pool_type": "eos", "eos_id": 2}, "custom_text": True}, "id 2"),
        ({"init_logit_bias": -10.0}, "logit bias"),
    ],
)
def test_what_transformers_cannot_express_is_refused(make_tower, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        write_hf(make_tower(**change), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_tokenizer_goes_with_the_model_and_gives_the_same_embeddings(make_tower, tmp_path):
    tower = make_tower(text={"vocab_size": 49408, "context_length": 16})
    write_hf(tower, tmp_path / "out")
    texts = ["a red cube, left of it: 2 dogs!", "x", "a photo of the number 37 " * 9]
    again = load_tower(ClipConfig(name=f"hf:{tmp_path / 'out'}"))
    torch.testing.assert_close(again.embed_text(texts), tower.embed_text(texts), rtol=1e-4, atol=5e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 16


def test_the_converted_tokenizer_gives_open_clips_ids():
    ours = open_clip.SimpleTokenizer()
    theirs = clip_tokenizer(ours)
    for text in ("a photo of a cat", "It's 10 o'clock, isn't it?", "Café über naïve", "two   spaces\nand\tmore", ""):
        ids = ours([text])[0]
        assert theirs(text)["input_ids"] == ids[ids != 0].tolist()


def test_the_image_processor_does_what_the_tower_was_given(make_tower, tmp_path):
    from PIL import Image
    from transformers import AutoImageProcessor

    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    tower = make_tower(preprocess={"mean": mean, "std": std})
    write_hf(tower, tmp_path / "squash", resize_mode="squash")
    write_hf(tower, tmp_path / "crop")
    image = Image.new("RGB", (80, 40), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 12, 40))
    squash, crop = (
        AutoImageProcessor.from_pretrained(tmp_path / name)(image, return_tensors="pt")["pixel_values"]
        for name in ("squash", "crop")
    )
    assert squash.shape == crop.shape == (1, 3, 40, 40)
    red = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor(mean)) / torch.tensor(std)
    blue = (torch.tensor([0.0, 0.0, 1.0]) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(crop[0, :, 20, 0], red, atol=1e-4, rtol=0)
    torch.testing.assert_close(squash[0, :, 20, 0], blue, atol=1e-4, rtol=0)
    assert load_tower(ClipConfig(name=f"hf:{tmp_path / 'squash'}")).input == tower.input


def test_padding_to_size_is_refused(make_tower, tmp_path):
    with pytest.raises(ConfigError, match="cannot pad"):
        write_hf(make_tower(), tmp_path / "out", resize_mode="longest")


def test_a_transformers_tower_is_written_as_itself_after_training_at_another_size(make_tower, tmp_path):
    write_hf(make_tower(), tmp_path / "first")
    tower = load_tower(ClipConfig(name=f"hf:{tmp_path / 'first'}", image_size=56)).trainable_copy()
    with torch.no_grad():
        for parameter in tower.vision.parameters():
            parameter.add_(0.01)
    write_hf(tower, tmp_path / "second")
    again = load_tower(ClipConfig(name=f"hf:{tmp_path / 'second'}"))
    pixels = torch.randn(1, 3, 56, 56)
    torch.testing.assert_close(again(pixels).patches, tower.eval()(pixels).patches, rtol=1e-5, atol=1e-5)
    assert again.input == tower.input


def test_half_precision_is_kept(make_tower, tmp_path):
    write_hf(make_tower().to(torch.bfloat16), tmp_path / "out")
    assert CLIPModel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_the_report_keeps_patch_tokens_and_image_embeddings_apart(make_tower, tmp_path):
    tower = make_tower()
    report, pixels = write_hf(tower, tmp_path / "out"), probe_pixels(tower.input.size)
    with torch.no_grad():
        patches, images = tower(pixels).patches.abs().max().item(), tower.embed(pixels).abs().max().item()
    assert report.patch_scale == pytest.approx(patches, rel=1e-6) and report.patch_difference <= 1e-5 * patches
    assert report.image_scale == pytest.approx(images, rel=1e-6) and report.image_difference <= 1e-5 * images
    assert abs(patches - images) > 1e-3 * images, "or the test could not tell them apart"


def test_a_tower_without_image_embeddings_is_reported_by_its_patch_tokens(tmp_path):
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(tmp_path / "in")
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (tmp_path / "in" / "preprocessor_config.json").write_text(json.dumps(settings))
    report = write_hf(load_tower(ClipConfig(name=f"hf:{tmp_path / 'in'}")), tmp_path / "out")
    assert (report.image_difference, report.image_scale, report.text_scale) == (None, None, None)
    assert report.patch_scale > 0


def test_a_view_that_pads_is_refused_with_what_can_say_it(toy, tmp_path):
    model = toy.build([], view="pad")
    with pytest.raises(ConfigError, match=r"view 'pad'.*--to open-clip.*--to llava") as caught:
        write_clip(model, tmp_path / "out")
    assert "resize_mode" not in str(caught.value) and not (tmp_path / "out").exists()
    write_clip(model, tmp_path / "out", transformers=False)
