"""What tests of every package share."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files with slow tests come first, each as a whole, so that several workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def no_plugins_of_the_repository() -> Iterator[None]:
    """Hide the plugins of this repository, which `make install` installs: what tests list must not depend on them."""
    from tove_core import plugins

    ours = {folder.name for folder in (Path(__file__).parents[1] / "plugins").iterdir()}
    found = plugins._entry_points
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "_entry_points", lambda: [one for one in found() if one[0].distribution not in ours])
        plugins.registry.cache_clear()
        yield
    plugins.registry.cache_clear()


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line after `error: `, which is all a failed command may say."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code == 1, self
        assert len(lines) == 1 and "Traceback" not in self.err, self.err
        return lines[0]


@pytest.fixture(scope="session")
def parser() -> Callable[..., Any]:
    """Give what makes the parser, once: from the annotations of all commands, it takes longer than most of them do."""
    import typer.main

    return cache(typer.main.get_command)


@pytest.fixture
def tove(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], parser: Callable[..., Any]
) -> Callable[..., Done]:
    """Give `tove(*words)`: run the command as its entry point does, in this process."""
    from tove_core.cli.main import main

    monkeypatch.delenv("TOVE_TRACEBACK", raising=False)
    monkeypatch.setattr("typer.main.get_command", parser)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["tove", *map(str, words)])
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                main()
                code = 0
            except SystemExit as leaving:
                code = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Give `shared_data(name)`: the folder of that public data set below TOVE_TEST_DATA.

    A missing folder skips the test, with the reason; where TOVE_REQUIRE_TEST_DATA=1 it fails it.
    """

    def folder(name: str) -> Path:
        root = os.environ.get("TOVE_TEST_DATA")
        reason = "TOVE_TEST_DATA is not set" if not root else f"TOVE_TEST_DATA has no folder {name!r}"
        if root and (Path(root) / name).is_dir():
            return Path(root) / name
        if os.environ.get("TOVE_REQUIRE_TEST_DATA") == "1":
            pytest.fail(f"{reason}, but TOVE_REQUIRE_TEST_DATA=1 wants every data set")
        pytest.skip(reason)

    return folder


COLOURS = {"red": (220, 30, 40), "green": (20, 200, 60), "blue": (30, 60, 230), "black": (5, 5, 5)}
TEXTS = ["Describe the image.", "a red square", "a green or a blue square?", "what colour is it? black"]
PLUGIN = """
from pathlib import Path
import torch
from torch import nn
from tove_core.hookspecs import hookimpl
from tove_core.hub.regions import RegionBatch
from tove_core.spec import ExpertSpec, Grid, Input, Regions, Variant, Vector, Weights

class Patches(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.key, out = next(iter(spec.outputs.items()))
        self.pool = out.kind == "vector"
        step = 8 if self.pool else out.stride
        self.conv = nn.Conv2d(3, out.channels, step, step)

    def forward(self, pixels):
        found = self.conv(pixels)
        return {self.key: found.mean((2, 3)) if self.pool else found}

class Names(nn.Module):
    # Two boxes named after the strongest colour in them, none where it is black; the third slot is never used.
    def forward(self, pixels):
        boxes = torch.tensor([[0.0, 0.1, 0.45, 0.9], [0.5, 0.3, 1.0, 1.0], [9.0, 9.0, -9.0, 9.0]])
        height, width = pixels.shape[2:]
        parts = [(0, 0.1, 0.45, 0.9), (0.5, 0.3, 1, 1)]
        means = torch.stack([
            pixels[:, :, int(t * height):int(b * height), int(l * width):int(r * width)].mean((2, 3))
            for l, t, r, b in parts
        ], 1)
        best, colour = means.max(-1)
        scores = torch.cat([best, best.new_full((len(best), 1), torch.nan)], 1)
        names = [[["red", "green", "blue"][c] for c in row] + ["never"] for row in colour.tolist()]
        return {"names": RegionBatch(boxes.expand(len(best), 3, 4), scores, scores > 0.2, text=names)}

def build(ctx):
    return Names() if "names" in ctx.spec.outputs else Patches(ctx.spec)

def expert(name, size, outputs, **more):
    given = dict(api=1, name=name, summary="A convolution.", factory="toy_experts:build", input=Input(size=size))
    return ExpertSpec(**given, outputs=outputs, **more)

@hookimpl
def tove_experts():
    mine = Weights(package="toy_experts", file="toy-wide.safetensors", license="MIT")
    vector = Vector(channels=7, norm="none")
    return [
        expert("toy-fine", (24, 36), {"depth": Grid(channels=3, stride=4, norm="fixed", fold=2)}),
        expert("toy-wide", (16, 24), {"map": Grid(channels=33, stride=8, norm="position")}, weights=mine),
        expert("toy-whole", (24, 24), {"code": vector}, variants={"small": Variant(), "large": Variant(
            outputs={"code": Vector(channels=40)})}, default="small"),
        expert("toy-names", (24, 32), {"names": Regions(limit=3, text=True)}),
    ]
"""


def _write_clip(folder: Path, vocabulary: int = 61, **top: Any) -> str:
    """Write an open_clip folder of 5x5 tokens, 32 wide, whose blocks matter; return its reference.

    Only from 49,408 words up can its text tower read what the tokenizer gives.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    vision = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 40}
    text = {"context_length": 9, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text, **top}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        model = open_clip.CLIP(**config)
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def _write_decoder(folder: Path) -> str:
    """Write a Llama 24 wide, with dropout, and a tokenizer of its own; return the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special, alphabet = ["<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=310, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        model = LlamaForCausalLM(LlamaConfig(**sizes, **ids, num_key_value_heads=1, attention_dropout=0.2))
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _write_plugin(site: Path) -> None:
    """Write a distribution of toy experts: `fine`, `wide` (with weights), `whole` (two variants), `names` (regions)."""
    import torch
    from safetensors.torch import save_file

    info, package = site / "toy_experts-1.0.dist-info", site / "toy_experts"
    info.mkdir(parents=True)
    package.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-experts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tove]\ntoys = toy_experts\n")
    (package / "__init__.py").write_text(PLUGIN)
    draw = torch.Generator().manual_seed(5)
    weights = {"conv.weight": torch.randn(33, 3, 8, 8, generator=draw), "conv.bias": torch.zeros(33)}
    save_file(weights, package / "toy-wide.safetensors")


class Toy:
    """Parts of a model small enough to build in a fraction of a second, and a toy data set."""

    experts = ("toy-fine", "toy-wide", "toy-whole")

    def __init__(self, root: Path) -> None:
        self.root, self.site = root, root / "site"
        self.clip, self.quick_clip = _write_clip(root / "clip"), _write_clip(root / "quick", quick_gelu=True)
        self.reading_clip = _write_clip(root / "reading", vocabulary=49_408)
        self.decoder = _write_decoder(root / "decoder")
        self.data = self._write_data(root / "data")
        _write_plugin(self.site)

    def build(self, experts: Any = experts, decoder: Any = "", fusion: Any = None, **options: Any) -> Any:
        """Build a model of the toy parts; `decoder` as `tove_core.build` takes it, or changes to the toy one's."""
        import tove_core

        if isinstance(decoder, dict) or decoder == "":
            decoder = {"name": self.decoder, "max_new_tokens": 5} | (decoder or {})
        gate = {"kind": "gate", "gate": {"hidden": 6, "balance_warmup": 1}}
        options = {"clip": self.clip, "fusion": gate if fusion is None else fusion} | options
        return tove_core.build(experts, decoder=decoder, **options)

    def samples(self) -> list[Any]:
        """Return 4 captions and 8 questions of two kinds about 12 images."""
        from tove_core.config import DataConfig
        from tove_core.data.readers import read

        return read(DataConfig(path=self.data))

    def pictures(self, count: int = 3) -> list[Any]:
        """Return image files."""
        return [sample.image for sample in self.samples()][:count]

    def examples(self, model: Any) -> Any:
        """Calibrate a model, and bind the toy data to it with features computed once."""
        from tove_core.training.examples import Examples
        from tove_core.training.run import prepare

        prepare(model, self.samples())
        return Examples.cached(model, self.samples())

    @staticmethod
    def _write_data(folder: Path) -> Path:
        import numpy as np
        from PIL import Image

        folder.mkdir()
        lines, draw = [], np.random.default_rng(6)
        for number in range(12):
            name, colour = list(COLOURS.items())[number % 4]
            pixels = np.clip(draw.normal(colour, 12, (37, 53, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            line: dict[str, Any] = {"id": f"s{number}", "image": f"{number}.png"}
            line |= {"text": [f"a {name} square", f"{name}"]} if number % 3 == 0 else {}
            line |= {"question": "what colour is it?", "answer": name, "kind": "colour"} if number % 3 == 1 else {}
            said = "yes" if name == "black" else "no"
            line |= {"question": "is it black?", "answer": said, "kind": "dark"} if number % 3 == 2 else {}
            lines.append(json.dumps(line))
        (folder / "toy.jsonl").write_text("\n".join(lines) + "\n")
        return folder / "toy.jsonl"


@pytest.fixture(scope="session")
def toy_parts(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Write the toy parts once."""
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def toy(toy_parts: Toy) -> Iterator[Toy]:
    """Give the toy parts, their plugin installed and the network forbidden while a module's tests run."""
    from tove_core import plugins

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(toy_parts.site))
        patch.setenv("TOVE_OFFLINE", "1")
        patch.setenv("TOVE_HOME", str(toy_parts.root / "home"))
        for name in ("TOVE_PLUGINS", "TOVE_BLOCK", "TOVE_STRICT"):
            patch.delenv(name, raising=False)
        plugins.registry.cache_clear()
        yield toy_parts
    plugins.registry.cache_clear()
