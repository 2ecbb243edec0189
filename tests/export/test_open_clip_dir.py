from __future__ import annotations

import json
import os
import subprocess
import sys

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU

from tove_core.config import ClipConfig
from tove_core.errors import CheckpointError, ConfigError
from tove_core.export import open_clip_dir
from tove_core.export.open_clip_dir import write_open_clip
from tove_core.tower import load_tower
from tove_core.tower.open_clip import OpenClipTower

READER = """
import sys, torch, open_clip
given = torch.load("data.pt", weights_only=True)
for name in sys.argv[1:]:
    model = open_clip.create_model_and_transforms(f"local-dir:{name}")[0].eval()
    with torch.no_grad():
        out = {"image": model.encode_image(given["pixels"]), "text": model.encode_text(given["ids"])}
    torch.save(out | {"activation": type(model.visual.transformer.resblocks[0].mlp.gelu).__name__}, f"{name}.pt")
assert not any(name.startswith("tove") for name in sys.modules)
"""


def clean_environment():
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def embeddings(tower, pixels, ids):
    with torch.no_grad():
        return tower.model.encode_image(pixels), tower.model.encode_text(ids)


def test_a_process_with_open_clip_alone_computes_the_same(make_tower, tmp_path):
    towers = {"GELU": make_tower(), "QuickGELU": make_tower(quick_gelu=True)}
    for name, tower in towers.items():
        write_open_clip(tower, tmp_path / name)
    pixels, ids = torch.randn(2, 3, 40, 40), torch.randint(0, 61, (2, 9))
    torch.save({"pixels": pixels, "ids": ids}, tmp_path / "data.pt")
    subprocess.run([sys.executable, "-c", READER, *towers], check=True, cwd=tmp_path, env=clean_environment())
    for name, tower in towers.items():
        there = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        image, text = embeddings(tower, pixels, ids)
        torch.testing.assert_close(there["image"], image, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(there["text"], text, rtol=1e-5, atol=1e-5)
        assert there["activation"] == name


def test_the_activation_written_is_the_one_built_and_not_the_flag(make_tower, tmp_path):
    tower = make_tower()
    for transformer in (tower.model.visual.transformer, tower.model.transformer):
        for block in transformer.resblocks:
            block.mlp.gelu = QuickGELU()
    tower = OpenClipTower.wrap(tower.model, tower.model_cfg)
    write_open_clip(tower, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"] is True


def test_a_wrong_activation_never_reaches_the_disk(make_tower, tmp_path, monkeypatch):
    tower = make_tower(quick_gelu=True)
    built = open_clip_dir.built_cfg
    monkeypatch.setattr(open_clip_dir, "built_cfg", lambda t: built(t) | {"quick_gelu": False})
    with pytest.raises(CheckpointError, match="differ from the source"):
        write_open_clip(tower, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_towers_that_disagree_on_the_activation_are_refused(make_tower, tmp_path):
    tower = make_tower()
    for block in tower.model.visual.transformer.resblocks:
        block.mlp.gelu = QuickGELU()
    with pytest.raises(ConfigError, match="one flag for both"):
        write_open_clip(tower, tmp_path / "out")


def test_the_report_beside_the_weights_says_how_far_the_copy_is(make_tower, tmp_path):
    report = write_open_clip(make_tower(), tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "tove_export.json").read_text())
    assert stored["image_difference"] == report.image_difference <= 1e-5 * report.image_scale
    assert stored["text_difference"] == report.text_difference
    assert stored["parameters"] == sum(
        p.numel() for p in open_clip.create_model(f"local-dir:{tmp_path / 'out'}").parameters()
    )


def test_the_preprocessing_is_written(make_tower, tmp_path):
    tower = make_tower(preprocess={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"})
    write_open_clip(tower, tmp_path / "out", resize_mode="squash")
    again = load_tower(ClipConfig(name=f"local-dir:{tmp_path / 'out'}"))
    assert again.input == tower.input and again.resize_mode == "squash" and tower.resize_mode == "shortest"
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    assert transform.transforms[-1].mean == (0.1, 0.2, 0.3) or transform.transforms[-1].mean == [0.1, 0.2, 0.3]


def test_a_trained_tower_at_another_size_is_written_as_it_is(make_tower, tmp_path):
    write_open_clip(make_tower(), tmp_path / "first")
    tower = load_tower(ClipConfig(name=f"local-dir:{tmp_path / 'first'}", image_size=56)).trainable_copy()
    with torch.no_grad():
        for parameter in tower.vision.parameters():
            parameter.add_(0.01)
    write_open_clip(tower, tmp_path / "second")
    again = load_tower(ClipConfig(name=f"local-dir:{tmp_path / 'second'}"))
    pixels = torch.randn(1, 3, 56, 56)
    torch.testing.assert_close(again(pixels).patches, tower.eval()(pixels).patches, rtol=1e-5, atol=1e-5)
    assert any(p.requires_grad for p in tower.parameters()), "exporting must not freeze what is being trained"


def test_a_half_precision_tower_is_written_in_half_precision(make_tower, tmp_path):
    report = write_open_clip(make_tower().to(torch.bfloat16), tmp_path / "out")
    assert report.image_difference <= 1e-5 * report.image_scale
    size = (tmp_path / "out" / "open_clip_model.safetensors").stat().st_size
    assert size < 2.5 * report.parameters


def test_a_tokenizer_of_its_own_goes_with_the_model(make_tower, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<pad>", "<unk>", "a", "red", "cube", "<bos>", "<eos>"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing("<bos> $0 <eos>", None, [("<bos>", 5), ("<eos>", 6)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    plain = make_tower(text={"vocab_size": 7, "hf_tokenizer_name": "own"})
    tower = OpenClipTower.wrap(plain.model, plain.model_cfg, tokenizer=tmp_path / "tokenizer")
    write_open_clip(tower, tmp_path / "out")
    texts = ["a red cube", "cube red"]
    again = load_tower(ClipConfig(name=f"local-dir:{tmp_path / 'out'}"))
    torch.testing.assert_close(again.embed_text(texts), tower.embed_text(texts), rtol=1e-5, atol=1e-5)
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(texts)
    assert ids.tolist() == [[5, 2, 3, 4, 6, 0, 0, 0, 0], [5, 4, 3, 6, 0, 0, 0, 0, 0]]


def test_existing_results_are_not_overwritten_by_accident(make_tower, tmp_path):
    tower = make_tower()
    write_open_clip(tower, tmp_path / "out")
    with pytest.raises(CheckpointError, match="exists already"):
        write_open_clip(tower, tmp_path / "out")
    write_open_clip(tower, tmp_path / "out", overwrite=True)
