from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import tove_core
from tove_core import plugins
from tove_core.config import DecoderConfig
from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.fusion.align import aligned_width
from tove_core.language.load import load_decoder
from tove_core.planning.figures import Plan
from tove_core.planning.plan import plan_model
from tove_core.spec import Cost, ExpertSpec, Grid, Input, Regions, Weights


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("planning opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, 4)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"map": self.conv(pixels)}


class Hesitant(Strided):
    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(pixels)
        return found if found["map"].mean().item() > 0 else super().forward(-pixels)


def broken(ctx: Any) -> nn.Module:
    raise RuntimeError("no such layer")


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give `offer(name=fields)`: the only experts installed, each a strided convolution unless it says otherwise."""
    module = ModuleType("planned_experts")
    module.strided, module.hesitant, module.broken = lambda ctx: Strided(), lambda ctx: Hesitant(), broken
    monkeypatch.setitem(sys.modules, "planned_experts", module)

    def install(**experts: dict[str, Any]) -> None:
        source, offers = plugins.Source("dist-a", "1", "e"), []
        for name, fields in experts.items():
            given: dict[str, Any] = {"api": 1, "name": name, "summary": "An expert.", "input": Input(size=(8, 12))}
            given |= {"factory": "planned_experts:strided", "weights": Weights(repo="a/b", license="MIT")}
            outputs = {"map": Grid(channels=5, stride=4, norm="none")}
            offers.append(plugins.Offer(ExpertSpec(**given | {"outputs": outputs} | fields), source))
        monkeypatch.setattr(plugins, "registry", lambda: plugins.Registry(offers=offers))

    return install


def part(plan: Plan, kind: str) -> Any:
    (found,) = [part for part in plan.parts if part.part == kind]
    return found


def test_a_plan_counts_what_the_built_model_has(toy: Any) -> None:
    model = toy.build()
    planned = plan_model(model.config)
    rows = {row.part: row for row in model.parameters_report().rows}
    names = ["clip", *(f"expert {key}" for key in toy.experts), "fusion", "decoder"]
    assert [one.params.value for one in planned.parts] == [rows[n].trained + rows[n].frozen for n in names]
    assert planned.params.value == model.parameters_report().trained + model.parameters_report().frozen
    modules = [model.tower, *model.experts.values(), model.fusion, model.decoder]
    sizes = [sum(t.numel() * t.element_size() for t in [*m.parameters(), *m.buffers()]) for m in modules]
    assert [one.weights.value for one in planned.parts] == sizes
    assert planned.download.value == 0 and planned.download.exact


def test_nothing_but_configurations_is_read(toy: Any, tmp_path: Path) -> None:
    for name in ("clip", "decoder"):
        shutil.copytree(toy.root / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "tok*"))
    bare = tove_core.plan([], clip=f"local-dir:{tmp_path / 'clip'}", decoder=str(tmp_path / "decoder"))
    assert bare.params.value == tove_core.plan([], clip=toy.clip, decoder=toy.decoder).params.value


def test_operations_and_memory_of_an_expert_follow_from_its_shape(offer: Any, toy: Any) -> None:
    offer(strided={})
    expert = part(tove_core.plan(["strided"], clip=toy.clip, decoder=None, batch=7), "expert")
    assert expert.flops.value == 2 * 5 * (2 * 3) * (3 * 16) and expert.flops.exact
    assert expert.activations.value == 7 * 4 * 5 * 6 and not expert.activations.exact
    few = {"name": "strided", "micro_batch": 2, "dtype": "bfloat16"}
    expert = part(tove_core.plan([few], clip=toy.clip, decoder=None, batch=7), "expert")
    assert expert.activations.value == 2 * 2 * 5 * 6 and expert.weights.value == 2 * (5 * 48 + 5)


def test_declared_operations_come_before_measured_ones(offer: Any, toy: Any) -> None:
    offer(told={"cost": Cost(params=3, flops=12345)})
    expert = part(tove_core.plan(["told"], clip=toy.clip, decoder=None), "expert")
    assert expert.flops.value == 12345 and "declared" in expert.flops.how and expert.params.value == 5 * 48 + 5


def test_what_cannot_be_measured_is_unknown_with_its_reason_and_the_rest_is_told(offer: Any, toy: Any) -> None:
    cost = Cost(params=300)
    offer(hesitant={"factory": "planned_experts:hesitant"}, gone={"factory": "planned_experts:broken", "cost": cost},
          lost={"factory": "no_such_module_here:build"})  # fmt: skip
    planned = tove_core.plan(["hesitant", "gone", "lost"], clip=toy.clip, decoder=None)
    hesitant, gone, lost = planned.parts[1:4]
    assert hesitant.flops.value == 2 * 5 * 6 * 48 and hesitant.flops.how.startswith(
        "at least: its forward does not run"
    )
    assert hesitant.params.value == 245 and hesitant.activations.value >= 4 * 5 * 6 and not hesitant.activations.exact
    assert planned.memory[None].how.startswith("at least") and "activations, flops at least: its forward" in str(
        planned
    )
    assert gone.params.value == 300 and gone.weights.value == 1200 and "no such layer" in gone.flops.how
    assert lost.params.value is None and "no_such_module_here" in lost.download.how
    assert not planned.params.exact and planned.params.how.startswith("at least") and ">=" in str(planned)
    assert "expert lost: params, download, weights, activations, flops unknown" in str(planned)


def test_regions_count_with_the_width_they_have_among_the_features(offer: Any, toy: Any) -> None:
    offer(boxes={"outputs": {"boxes": Regions(channels=4, limit=3)}}, map={})
    boxes, grid = (tove_core.plan([name], clip=toy.clip, decoder=None) for name in ("boxes", "map"))
    wider = aligned_width(ExpertSpec.model_validate(plugins.registry().resolve("boxes").spec)) - 5
    assert wider > 0 and part(boxes, "expert").params.value == 245
    assert part(boxes, "fusion").params.value == part(grid, "fusion").params.value + 32 * wider


def test_a_download_is_declared_else_estimated_and_nothing_where_the_file_is_there(
    offer: Any, toy: Any, tmp_path: Path
) -> None:
    sized = Weights(repo="a/b", license="MIT", size=999)
    second = Weights(repo="a/second", license="MIT", size=100)
    offer(sized={"weights": sized}, other={}, none={"weights": None},
          pair={"weights": sized.model_copy(update={"more": {"second": second}})})  # fmt: skip
    plan = lambda: tove_core.plan(["sized", "other", "none", "pair"], clip=toy.clip, decoder=None)  # noqa: E731
    declared, estimated, nothing, both = (one.download for one in plan().parts[1:5])
    assert both.value == 1099 and both.exact
    assert declared.value == 999 and declared.exact and nothing.value == 0
    assert estimated.value == 4 * 245 and not estimated.exact
    repo = tmp_path / "cache" / "models--a--b"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c" * 40)
    (repo / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (repo / "snapshots" / ("c" * 40) / "model.safetensors").write_bytes(b"x")
    assert plan().download.value == 100, "the pair's second file alone"


def test_hub_models_out_of_reach_are_unknown_and_say_why(offer: Any, toy: Any) -> None:
    offer(strided={})
    planned = tove_core.plan(["strided"], clip="hf-hub:some/clip", decoder="some/decoder")
    for kind in ("clip", "decoder"):
        assert part(planned, kind).params.value is None and "not in the local cache" in part(planned, kind).download.how
    assert "depends on CLIP" in part(planned, "fusion").params.how
    assert part(planned, "expert").params.value == 245
    known = part(tove_core.plan([], clip="hf:some/clip", decoder=toy.decoder), "decoder")
    assert known.params.value > 1000 and not known.params.exact and known.download.value == 0


def test_open_clip_names_need_no_file() -> None:
    # open_clip's docs/model_profile.csv: 151.28 M parameters, and 8.82 GFLOP in the image tower of 12 blocks.
    named = {"name": "ViT-B-32/laion2b_s34b_b79k", "layer": -1}
    whole = part(tove_core.plan([], clip=named, decoder=None), "clip")
    assert round(whole.params.value / 1e6, 2) == 151.28 and whole.download.value == 4 * whole.params.value
    assert whole.flops.value == pytest.approx(8.82e9, rel=2e-3)
    seen = part(tove_core.plan([], clip=named | {"layer": -2}, decoder=None), "clip")
    assert seen.flops.value == pytest.approx(8.82e9 * 11 / 12, rel=5e-3)  # the last block is not run
    with pytest.raises(ConfigError, match="has no tag"):
        tove_core.plan([], clip="ViT-B-32/nobodys", decoder=None)
    with pytest.raises(UnknownExpertError):
        tove_core.plan(["no-such-expert"], clip="ViT-B-32/random", decoder=None)


@pytest.mark.parametrize("pad", [None, 0])  # given one, transformers looks for padding in ids without a mask
def test_transformers_towers_and_decoders_that_look_at_the_image(tmp_path: Path, pad: int | None) -> None:
    from transformers import CLIPVisionConfig, GPT2Config

    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    CLIPVisionConfig(**sizes, patch_size=8, image_size=32).save_pretrained(tmp_path / "clip")
    preprocess = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(preprocess))
    GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, pad_token_id=pad).save_pretrained(tmp_path / "gpt2")
    decoder = {"name": str(tmp_path / "gpt2"), "kind": "cross-attention", "train": "cross-attention"}
    planned = tove_core.plan([], clip=f"hf:{tmp_path / 'clip'}", decoder=decoder, training=True)
    clip, language = planned.parts
    tokens, block = 17, 4 * 24 * 24 + 2 * 24 * 40
    # One product per patch, two blocks of three, and attention among 16 patches and the class token.
    flops = 2 * 16 * 3 * 64 * 24 + 2 * (2 * tokens * block + 4 * tokens * tokens * 24)
    assert clip.flops.value == flops and planned.download.value == 0
    # Each of two layers: query, keys with values, output, and a layer norm; beside them the projector from 24 to 16.
    cross = 2 * (16 * 16 + 16 + 16 * 32 + 32 + 16 * 16 + 16 + 2 * 16)
    assert language.training.value == 12 * (cross + 24 * 16 + 16 + 16 * 16 + 16)


def test_a_language_model_held_in_few_bits_weighs_less_and_is_an_estimate(toy: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2).save_pretrained(tmp_path / "gpt2")

    def held(quantize: str | None, clip: str = toy.clip, **more: Any) -> Any:
        named = {"name": str(tmp_path / "gpt2"), "dtype": "bfloat16", "quantize": quantize} | more
        return part(tove_core.plan([], clip=clip, decoder=named), "decoder").weights

    # Of each of two layers: attention's two products and the other two. Embeddings, which are the head, stay as is.
    shapes = [(16, 48), (16, 16), (16, 64), (64, 16)]
    linear, rows = 2 * sum(a * b for a, b in shapes), 2 * sum(b for _, b in shapes)
    whole, eight, four = (held(quantize) for quantize in (None, "8bit", "4bit"))
    assert whole.exact and not eight.exact and not four.exact and "8bit" in eight.how and "4bit" in four.how
    assert whole.value - eight.value == 2 * linear - linear - 4 * rows
    assert whole.value - four.value == 2 * linear - linear // 2 - 4 * linear // 64
    adapted, plain = (held(quantize, train="lora") for quantize in ("4bit", None))
    assert plain.value - adapted.value == whole.value - four.value, "adapters stay in float32"
    unknown = [held(quantize, clip="hf:some/clip").value for quantize in (None, "4bit")]
    assert unknown[0] - unknown[1] == whole.value - four.value


def test_the_projector_of_a_plan_ends_in_the_width_it_has_in_the_built_decoder(toy: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, ElectraConfig

    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary = AutoTokenizer.from_pretrained(toy.decoder)
    vocabulary.save_pretrained(tmp_path)
    ElectraConfig(vocab_size=len(vocabulary), embedding_size=16, **sizes).save_pretrained(tmp_path)
    for kind in ("cross-attention", "prefix"):
        config = DecoderConfig(name=str(tmp_path), kind=kind)
        built = load_decoder(config, width=32, weights="random")
        found = part(tove_core.plan([], clip=toy.clip, decoder=config), "decoder")
        assert found.params.value == sum(p.numel() for p in built.parameters())


def test_training_adds_gradients_moments_and_what_the_backward_pass_keeps(toy: Any) -> None:
    model = toy.build()
    idle, training = plan_model(model.config, batch=5), plan_model(model.config, batch=5, training=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(one.training.value for one in training.parts) == 3 * 4 * trained
    assert part(training, "decoder").activations.value > part(idle, "decoder").activations.value
    assert training.memory[None].value > idle.memory[None].value and training.flops == idle.flops
    everything = {"name": toy.decoder, "train": "all"}
    thawed = tove_core.plan([], clip=toy.clip, decoder=everything, training=True)
    assert part(thawed, "decoder").training.value == 3 * 4 * part(thawed, "decoder").params.value


def test_memory_is_told_by_device_and_offloaded_weights_count_while_they_run(offer: Any, toy: Any) -> None:
    offer(one={}, two={}, three={})
    experts = ["one", {"name": "two", "device": "cuda:1"}, {"name": "three", "offload": True}]
    planned = tove_core.plan(experts, clip=toy.clip, decoder=None)
    clip, one, two, three, fusion = planned.parts
    assert planned.memory["cuda:1"].value == two.weights.value + two.activations.value
    runs = (clip.activations, one.activations, fusion.activations)
    largest = max(*(run.value for run in runs), three.activations.value + three.weights.value)
    assert planned.memory[None].value == clip.weights.value + one.weights.value + fusion.weights.value + largest
    assert "on cuda:1 besides" in str(planned)


def test_licences_are_combined_and_unknown_is_not_yes(offer: Any, toy: Any) -> None:
    def weights(license: str, commercial: bool | None, **more: Any) -> dict[str, Any]:
        return {"weights": Weights(repo="a/b", license=license, commercial=commercial, **more)}

    murky, paid = weights("LicenseRef-x", None, gated=True), weights("CC-BY-NC-4.0", False)
    offer(free=weights("MIT", True), murky=murky, paid=paid, bare={"weights": None})
    ask = lambda *names: tove_core.plan(list(names), clip=toy.clip, decoder=toy.decoder)  # noqa: E731
    assert ask("free", "bare").commercial is True and ask("bare").licenses == []
    assert ask("free", "murky").commercial is None and ask("free", "murky", "paid").commercial is False
    bare = next(part for part in ask("bare").parts if part.name == "bare")
    assert (bare.license, bare.commercial) == ("none needed", True)
    text = str(ask("free", "murky", "paid", "bare"))
    assert re.search(r"^expert bare .* none needed +yes$", text, re.MULTILINE)
    assert "CC-BY-NC-4.0, LicenseRef-x, MIT; commercial use: no" in text
    assert "expert murky: LicenseRef-x, unknown" in text
    assert "not known to tove, so read their terms: clip" in text and "expert murky is gated" in text


def test_the_licences_of_toves_own_parts_are_told_and_those_of_others_are_left_to_be_read(offer: Any, toy: Any) -> None:
    offer(free={"weights": Weights(repo="a/b", license="MIT", commercial=True)})
    own = "package:tove_core.demo/assets"
    planned = tove_core.plan(["free"], clip=f"{own}/clip", decoder=f"{own}/lm", licenses="strict")
    assert planned.refused is None and not planned.unchecked and planned.licenses == ["MIT"]
    assert [(part.license, part.commercial) for part in (planned.parts[0], planned.parts[-1])] == [
        ("Apache-2.0", True)
    ] * 2
    assert "not known to tove" not in str(planned)
    mixed = str(tove_core.plan(["free"], clip=f"{own}/clip", decoder=toy.decoder))
    assert f"read their terms: decoder {toy.decoder}" in mixed


def test_the_policy_is_applied_and_the_plan_still_told(offer: Any, toy: Any) -> None:
    offer(murky={})
    planned = tove_core.plan(["murky"], clip=toy.clip, decoder=None, licenses="commercial")
    assert planned.refused and "'murky'" in planned.refused and planned.params.value
    assert "refused by the licence policy" in str(planned)
    assert tove_core.plan(["murky"], clip=toy.clip, decoder=None).refused is None
    assert json.loads(json.dumps(planned.as_dict()))["refused"] == planned.refused


def test_planning_leaves_random_generators_and_defaults_alone(toy: Any) -> None:
    torch.manual_seed(3)
    tove_core.plan(["toy-fine"], clip=toy.clip, decoder=toy.decoder)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2)) and torch.get_default_device() == torch.device("cpu")
    with pytest.raises(ConfigError, match="batch of 0"):
        tove_core.plan([], clip=toy.clip, decoder=None, batch=0)
