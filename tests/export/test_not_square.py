"""Exports of a CLIP whose images are not square show it the region that the model sees, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tove_core.errors import ConfigError
from tove_core.export.clip import write_clip
from tove_core.export.onnx import write_onnx
from tove_core.export.onnx_card import CARD_FILE, IMAGE_FILE


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """A CLIP of 16x32 pixels."""
    vision = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": [16, 32]}
    text = {"context_length": 9, "vocab_size": 61, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    folder = tmp_path / "wide"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    state = {name: value.contiguous() for name, value in open_clip.CLIP(**config).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def test_open_clip_squashes_the_whole_image_as_the_model_does(toy: Any, clip: str, tmp_path: Path) -> None:
    model = toy.build([], clip=clip, decoder=None)
    write_clip(model, tmp_path / "out", transformers=False)
    image = Image.linear_gradient("L").convert("RGB").resize((90, 60))
    transform: Any = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")[2]
    shown = transform(image)[None]
    torch.testing.assert_close(shown, model.preprocessor()([image])["clip"], atol=0.05, rtol=0)


@pytest.mark.parametrize("view", ["crop", "pad"])
def test_no_file_says_what_no_processor_of_others_does(toy: Any, clip: str, tmp_path: Path, view: str) -> None:
    model = toy.build([], clip=clip, decoder=None, view=view)
    with pytest.raises(ConfigError, match=rf"view '{view}'\) stretched to 16x32 pixels, .* export it --to onnx"):
        write_clip(model, tmp_path / "out", transformers=False)
    assert not (tmp_path / "out").exists()
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    write_onnx(model, tmp_path / "onnx")
    assert json.loads((tmp_path / "onnx" / CARD_FILE).read_text())["image"]["view"] == view
    assert not (tmp_path / "onnx" / IMAGE_FILE).exists()
