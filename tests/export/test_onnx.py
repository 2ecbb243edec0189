from __future__ import annotations

import collections
import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from tove_core import ToveModel
from tove_core.errors import CheckpointError, ConfigError
from tove_core.export import onnx as onnx_export
from tove_core.export import onnx_graph, onnx_text
from tove_core.export.hf_dir import write_hf
from tove_core.export.onnx import OnnxReport, write_onnx

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")
ROOT = Path(__file__).parents[2]
SHOWS = "docs/tutorials/detach-and-merge.md"


class Written(NamedTuple):
    model: ToveModel
    folder: Path
    report: OnnxReport


def written(model: Any, folder: Path, **options: Any) -> Written:
    return Written(model, folder, write_onnx(model, folder, **options))


def run(folder: Path, name: str = "vision.onnx", **given: Any) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, {key: np.asarray(value) for key, value in given.items()}), strict=True))


def near(found: np.ndarray, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.dtype == np.float32 and found.shape == tuple(wanted.shape)
    assert np.abs(found - wanted.numpy()).max() <= tolerance * float(wanted.abs().max())


@pytest.fixture(scope="module")
def whole(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """An open_clip tower with a text side that its tokenizer fits, tokens from the middle block."""
    model = toy.build([], decoder=None, clip={"name": toy.reading_clip, "layer": 1})
    return written(model, tmp_path_factory.mktemp("onnx") / "whole")


@pytest.fixture(scope="module")
def halved(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """QuickGELU, another image size, weights in float16 that lie beside the graph."""
    model = toy.build([], decoder=None, clip={"name": toy.quick_clip, "image_size": 56, "layer": -1}, view="crop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "EMBEDDED_LIMIT", 1000)
        return written(model, tmp_path_factory.mktemp("onnx") / "halved", dtype="float16")


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_tokens_and_embeddings_are_the_models_in_batches_of_any_size(whole: Written, batch: int) -> None:
    pixels = torch.randn(batch, 3, 40, 40, generator=torch.Generator().manual_seed(batch))
    found = run(whole.folder, pixels=pixels)
    with torch.no_grad():
        near(found["tokens"], whole.model.tower(pixels).patches)
        near(found["embedding"], whole.model.tower.embed(pixels))


def test_every_block_is_in_the_graph_once(whole: Written) -> None:
    graph = onnx.load(whole.folder / "vision.onnx").graph
    assert collections.Counter(node.op_type for node in graph.node)["Softmax"] == 3
    assert [graph.input[0].name, *(one.name for one in graph.output)] == ["pixels", "tokens", "embedding"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_graph_tells_nothing_of_the_machine_that_wrote_it(whole: Written) -> None:
    for name in ("vision.onnx", "text.onnx"):
        content = (whole.folder / name).read_bytes()
        assert not any(word in content for word in (b".py", b"stack_trace", os.fsencode(Path.home()), b"site-packages"))
        weights = sum(i.ByteSize() for i in onnx.load(whole.folder / name).graph.initializer)
        assert len(content) < weights + 100_000


def test_texts_go_through_the_tokenizer_beside_it_to_the_models_embeddings(whole: Written) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(whole.folder / "tokenizer.json"))
    texts = ["Red cube", "", "a photo of the largest of all the many green things there are here"]
    ids = [tokenizer.encode(text).ids for text in texts]
    assert ids == whole.model.tower.token_ids(texts)
    near(run(whole.folder, "text.onnx", ids=ids)["embedding"], whole.model.tower.embed_text(texts))
    card = json.loads((whole.folder / "tove_onnx.json").read_text())["text"]
    assert card["inputs"]["ids"] == {"dtype": "int64", "shape": ["batch", 9]}
    assert card["scale"] == pytest.approx(float(whole.model.tower.model.logit_scale.exp()))


def test_the_report_and_the_card_say_what_is_there(whole: Written, halved: Written) -> None:
    for one, dtype in ((whole, "float32"), (halved, "float16")):
        stored = json.loads((one.folder / "tove_export.json").read_text())
        assert stored["format"] == "onnx" and stored["dtype"] == dtype
        assert stored["token_difference"] == one.report.token_difference <= 1e-5 * one.report.token_scale
        card = json.loads((one.folder / "tove_onnx.json").read_text())
        graph = onnx.load(one.folder / card["vision"]["file"]).graph
        for value in (*graph.input, *graph.output):
            said = {**card["vision"]["inputs"], **card["vision"]["outputs"]}[value.name]["shape"]
            assert [d.dim_value or "batch" for d in value.type.tensor_type.shape.dim] == said
        parts = [card[key] for key in ("vision", "text") if card[key]]
        named = {part[key] for part in parts for key in ("file", "data", "tokenizer") if part.get(key)}
        settings = {"tove_onnx.json", "tove_export.json", "preprocessor_config.json"}
        assert {path.name for path in one.folder.iterdir()} == named | settings
    assert card["image"]["view"] == "crop" and card["vision"]["data"] == "vision.onnx.data"
    assert (card["vision"]["block"], card["vision"]["blocks"], card["vision"]["grid"]) == (3, 3, [7, 7])


def test_a_tokenizer_with_other_words_than_the_text_tower_leaves_the_text_side_out(halved: Written) -> None:
    assert "its text tower knows 61" in (halved.report.text_left_out or "")
    assert halved.report.text_difference is None and not (halved.folder / "text.onnx").exists()


def test_a_tokenizer_that_gives_other_ids_in_its_new_form_is_not_written(whole: Written, tmp_path: Path) -> None:
    class Other:
        model, tokenizer, model_cfg = None, whole.model.tower.tokenizer, whole.model.tower.model_cfg

        def token_ids(self, texts: list[str]) -> list[list[int]]:
            return [[5] * 9 for _ in texts]

        def embed_text(self, texts: list[str]) -> None:
            return None

    found = onnx_text.save_tokenizer(Other(), ["a cat"], tmp_path)
    assert found is not None and "other ids for 'a cat'" in found and list(tmp_path.iterdir()) == []


def test_float16_halves_the_weights_and_rounds_nothing_else(halved: Written) -> None:
    tower = halved.model.tower
    weights = sum(p.numel() for n, p in tower.vision.named_parameters())
    assert (halved.folder / "vision.onnx.data").stat().st_size < 2.3 * weights
    pixels = torch.randn(5, 3, 56, 56)
    found = run(halved.folder, pixels=pixels)
    with torch.no_grad():
        exact = tower(pixels).patches
        assert not np.allclose(found["tokens"], exact.numpy(), atol=1e-6)
        near(found["tokens"], exact, 0.01)
        for parameter in (rounded := tower.trainable_copy().freeze()).parameters():
            parameter.copy_(parameter.half())
        near(found["tokens"], rounded(pixels).patches)
    assert 0 < halved.report.rounding_difference < 0.02 * halved.report.token_scale


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_image_towers_of_transformers(
    toy: Any, transformers_clip: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    model = toy.build([], decoder=None, clip={"name": transformers_clip(kind)}, view="pad")
    one = written(model, tmp_path / "out")
    pixels = torch.randn(3, 3, 40, 40)
    found = run(one.folder, pixels=pixels)
    near(found["tokens"], model.tower(pixels).patches)
    assert one.report.text_left_out == "the CLIP has no text tower"
    if kind == "clip":  # an image tower alone, without projection
        assert list(found) == ["tokens"] and one.report.image_difference is None
    else:
        with torch.no_grad():
            near(found["embedding"], model.tower.embed(pixels))


def test_a_whole_clip_of_transformers_with_its_texts(whole: Written, toy: Any, tmp_path: Path) -> None:
    write_hf(whole.model.tower, tmp_path / "hf")
    model = toy.build([], decoder=None, clip=f"hf:{tmp_path / 'hf'}")
    one = written(model, tmp_path / "out")
    pixels, texts = torch.randn(3, 3, 40, 40), ["a red cube", "", "green"]
    ids = model.tower.token_ids(texts)
    with torch.no_grad():
        near(run(one.folder, pixels=pixels)["embedding"], whole.model.tower.embed(pixels))
        near(run(one.folder, "text.onnx", ids=ids)["embedding"], whole.model.tower.embed_text(texts))


def test_a_timm_tower_inside_open_clip(make_tower: Any, toy: Any, tmp_path: Path) -> None:
    timm = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    model = toy.build([], decoder=None)
    model.tower = make_tower(vision=timm)
    one = written(model, tmp_path / "out")
    pixels = torch.randn(3, 3, 160, 160)
    found = run(one.folder, pixels=pixels)
    near(found["tokens"], model.tower(pixels).patches)
    with torch.no_grad():
        near(found["embedding"], model.tower.embed(pixels))


def test_what_differs_never_reaches_the_disk(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = onnx_export.write_graph

    def wrong(side: Any, *given: Any, **options: Any) -> int:
        side = copy.deepcopy(side)
        for block in side.tower.model.visual.transformer.resblocks:  # the nearest thing to right
            block.mlp.gelu = torch.nn.GELU(approximate="tanh")
        return traced(side, *given, **options)

    monkeypatch.setattr(onnx_export, "write_graph", wrong)
    with pytest.raises(CheckpointError, match=r"tokens of vision\.onnx differ from the source"):
        write_onnx(toy.build([], decoder=None), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_experts_or_another_dtype_is_refused(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 experts .*'tove merge'"):
        write_onnx(toy.build(decoder=None), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"dtype is 'bfloat16'.*float32 or float16"):
        write_onnx(toy.build([], decoder=None), tmp_path / "out", dtype="bfloat16")  # type: ignore[arg-type]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        write_onnx(toy.build([], decoder=None), tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_packages_that_are_missing_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name))
    with pytest.raises(
        ConfigError, match=r"onnx, onnxscript, onnxruntime, which are not installed.*'tove-core\[onnx\]'"
    ):
        onnx_export.require_onnx()


def snippet() -> str:
    """The Python that the page shows for a program without tove, of an image and then of texts."""
    page = (ROOT / SHOWS).read_text(encoding="utf-8")
    found = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in block]
    assert ["tokens" in found[0], "logits" in found[1], len(found)] == [True, True, 2]
    return "".join(found).replace("photo.jpg", "photo.png")


ENDS = """
import sys
np.savez("found.npz", tokens=tokens, embedding=embedding, logits=logits)
sys.exit(any(name.partition(".")[0] in ("torch", "tove_core") for name in sys.modules))
"""


@pytest.mark.parametrize(
    ("view", "size"), [("squash", (37, 61)), ("crop", (61, 38)), ("pad", (37, 61)), ("pad", (23, 18))]
)
def test_what_the_page_shows_sees_an_image_file_as_the_model_does(
    whole: Written, toy: Any, tmp_path: Path, view: str, size: tuple[int, int]
) -> None:
    # Only the region differs between views, and the graphs know nothing of it.
    model = toy.build([], decoder=None, clip={"name": toy.reading_clip, "layer": 1}, view=view)
    shutil.copytree(whole.folder, out := tmp_path / "runs" / "easy-vqa-onnx")
    card = json.loads((out / "tove_onnx.json").read_text())
    assert card["image"]["view"] == "squash"
    card["image"]["view"] = view
    (out / "tove_onnx.json").write_text(json.dumps(card))
    rough = np.random.default_rng(4).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(rough).save(picture := tmp_path / "photo.png")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", snippet() + ENDS], check=True, cwd=tmp_path, env=environment)
    found = np.load(tmp_path / "found.npz")
    near(found["tokens"], model.tokens(picture))
    with torch.no_grad():
        seen = model.tower.embed(model.preprocessor(["clip"])([picture])["clip"])
        read = model.tower.embed_text(["a red cube", "a blue ball"])
        logits = model.tower.model.logit_scale.exp() * normalize(seen) @ normalize(read).T
    near(found["embedding"], seen)
    assert np.abs(found["logits"] - logits.numpy()).max() < 1e-4
