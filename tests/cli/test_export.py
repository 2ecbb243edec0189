"""`tove export` from a merged model to folders of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from transformers import CLIPModel, LlavaForConditionalGeneration

from tove_core import ToveModel

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def merged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tove merge` writes."""
    from tove_core.config import MergeConfig
    from tove_core.data.readers import read
    from tove_core.merging import merge
    from tove_core.merging.write import write_merged
    from tove_core.training.run_data import run_data
    from tove_core.training.source import make_examples

    model = ToveModel.from_pretrained(run)
    examples = make_examples(model, read(run_data(run, None, train=True)), cache=False, quiet=True)
    settings = MergeConfig(steps=2, batch_size=4, warmup=1)
    folder = tmp_path_factory.mktemp("merged") / "merged"
    write_merged(merge(model, examples, settings, quiet=True), folder)
    return folder


def test_a_merged_model_becomes_a_llava_with_its_own_tower(tove: Tove, merged: Path, tmp_path: Path) -> None:
    done = tove("export", merged, "--to", "llava", "--out", tmp_path / "llava", "--dtype", "bfloat16")
    assert done.code == 0 and "LlavaForConditionalGeneration" in done.out and "rounding to bfloat16" in done.out
    written: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava")
    assert written.dtype == torch.bfloat16
    report = json.loads((tmp_path / "llava" / "tove_export.json").read_text())
    assert report["format"] == "llava" and report["view"] == "squash"
    model = ToveModel.from_pretrained(merged)
    patch = written.model.vision_tower.embeddings.patch_embedding.weight
    assert torch.equal(patch, model.tower.vision.conv1.weight.to(torch.bfloat16))
    again = tove("export", merged, "--to", "llava", "--out", tmp_path / "llava")
    assert "exists already" in again.error


def test_its_clip_alone_goes_to_transformers_and_open_clip(tove: Tove, merged: Path, tmp_path: Path) -> None:
    for name in ("clip", "open-clip"):
        done = tove("export", merged, "--to", name, "--out", tmp_path / name)
        report = json.loads((tmp_path / name / "tove_export.json").read_text())
        assert done.code == 0 and f"image embeddings differ by {report['image_difference']:.2g} of " in done.out
        assert ("patch tokens differ by" in done.out) == (name == "clip")
    pixels = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        own = ToveModel.from_pretrained(merged).tower.embed(pixels)
        other = CLIPModel.from_pretrained(tmp_path / "clip").eval().get_image_features(pixel_values=pixels)
        one = open_clip.create_model(f"local-dir:{tmp_path / 'open-clip'}").eval().encode_image(pixels)
    torch.testing.assert_close(other.pooler_output, own, rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(one, own, rtol=1e-4, atol=5e-5)
    # The region of an image is the run's, not the one that the tower was trained on.
    settings = json.loads((tmp_path / "open-clip" / "open_clip_config.json").read_text())
    assert settings["preprocess_cfg"]["resize_mode"] == "squash"
    assert json.loads((tmp_path / "clip" / "preprocessor_config.json").read_text())["do_center_crop"] is False


def test_its_clip_goes_to_onnx_with_the_weights_that_merging_trained(tove: Tove, merged: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    import onnxruntime

    done = tove("export", merged, "--to", "onnx", "--out", tmp_path / "onnx", "--dtype", "float16")
    assert done.code == 0 and "rounding to float16" in done.out and "image embeddings" in done.out
    assert "without text.onnx: the tokenizer of" in done.out
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "vision.onnx"))
    pixels = torch.randn(2, 3, 40, 40)
    own = ToveModel.from_pretrained(merged).tower(pixels).patches
    (tokens,) = session.run(["tokens"], {"pixels": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(tokens), own, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "gguf"], "no format 'gguf'.*llava, clip, open-clip"),
        (["--to", "llava", "--dtype", "int8"], "--dtype is 'int8'"),
        (["--to", "clip", "--dtype", "float16"], "--dtype float16 is for --to llava"),
        (["--to", "onnx", "--dtype", "bfloat16"], "--dtype bfloat16 is not for --to onnx; choose float32, float16"),
        (["--to", "llava"], "3 experts .*'tove merge'"),
        (["--to", "clip"], "3 experts .*'tove merge'"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    tove: Tove, run: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    import re

    done = tove("export", run, "--out", tmp_path / "out", *words)
    assert re.search(message, done.error) and list(tmp_path.iterdir()) == []
