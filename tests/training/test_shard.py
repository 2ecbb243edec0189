"""Language models divided among two real processes, against one process that holds all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tove_core import ToveModel
from tove_core.config import DecoderConfig, TrainingConfig
from tove_core.errors import ConfigError
from tove_core.training import fit
from tove_core.training.shard import require_shardable

pytestmark = pytest.mark.slow
LORA = {"train": "lora", "lora": {"rank": 3, "alpha": 6}}
FULL = {"shard": "full"}


def gpt2(toy: Any, folder: Path) -> str:
    """Write a GPT-2 with the toy tokenizer: tied embeddings, no dropout, its cross-attention to be drawn."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(toy.decoder)
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=24, n_layer=2, n_head=3, **dropout))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "none": ({"train": "none"}, {}, {}),
    "lora": (LORA, {"accumulate": 2, "checkpointing": True}, {"off": "toy-wide"}),
    "all": ({"train": "all"}, {"average": 0.9, "accumulate": 5}, {}),
    "cross": ({"kind": "cross-attention", "train": "cross-attention"}, {"checkpointing": True}, {}),
    "cross-all": ({"kind": "cross-attention", "train": "all"}, {"clip_norm": 0.05}, {}),
}
"""What each run's decoder, training and job say; all are done by one process, and by two with the model divided."""


def varied(processes: Any, toy: Any, output: Path, world: int, decoder: str, kind: str, **more: Any) -> dict[str, Any]:
    language, training, rest = KINDS[kind]
    training = {"steps": 6} | training | more.pop("training", {})
    made = processes.job(toy, output, world, decoder, training=training, **rest, **more)
    made["model"]["decoder"] |= language
    return made


@pytest.fixture(scope="module")
def runs(toy: Any, processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run everything that needs processes of its own, in one interpreter."""
    root = tmp_path_factory.mktemp("shards")
    decoders = {"prefix": processes.steady(toy, root / "steady"), "cross": gpt2(toy, root / "gpt2")}
    jobs = []
    for kind in KINDS:
        decoder = decoders["cross" if kind.startswith("cross") else "prefix"]
        jobs.append(varied(processes, toy, root / kind, 1, decoder, kind, whole=True))
        jobs.append(varied(processes, toy, root / f"{kind}-divided", 2, decoder, kind, training=FULL, whole=True))
    plain, divided = decoders["prefix"], {"training": FULL}
    jobs += [
        varied(processes, toy, root / "resumed", 2, plain, "all", stop=5, **divided),
        {"output": str(root / "resumed"), "copy": str(root / "joined")},
        varied(processes, toy, root / "resumed", 2, plain, "all", resume=True, spawned_seed=77, **divided),
        varied(processes, toy, root / "term", 2, plain, "lora", term=3, **divided),
        varied(processes, toy, root / "term", 2, plain, "lora", resume=True, **divided),
        varied(processes, toy, root / "joined", 1, plain, "all", resume=True),
        varied(processes, toy, root / "half", 1, plain, "all", training={"precision": "bf16"}),
        varied(processes, toy, root / "half-divided", 2, plain, "all", training=FULL | {"precision": "bf16"}),
    ]
    processes.drive(toy, root, jobs)
    return root


def tensors(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_curve_is_that_of_a_model_that_is_not_divided(runs: Path, kind: str, processes: Any) -> None:
    alone, together = processes.metrics(runs / kind), processes.metrics(runs / f"{kind}-divided")
    assert len(together) == 6 and alone[-1]["balance"] > 0
    for one, other in zip(alone, together, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["balance"] == pytest.approx(one["balance"], abs=1e-5)
    assert alone[0]["loss"] - alone[-1]["loss"] > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_whole_tensors_under_the_same_names(runs: Path, kind: str) -> None:
    for file in ("final-0", "checkpoint/model", "state/step-00000006/state"):
        one, other = (tensors(runs / name / f"{file}.safetensors") for name in (kind, f"{kind}-divided"))
        assert {k: (t.shape, t.dtype) for k, t in one.items()} == {k: (t.shape, t.dtype) for k, t in other.items()}
        for name, value in one.items():
            assert torch.allclose(other[name], value, atol=2e-4, rtol=1e-3), (file, name)
        if file == "final-0":
            embeddings = [name for name in one if "embed_tokens" in name or "wte" in name]
            assert bool(embeddings) == ("all" in kind), "frozen parameters are in no file"


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_holds_half_of_the_language_model_and_both_end_alike(runs: Path, kind: str) -> None:
    (whole,) = {json.dumps(line) for line in json.loads((runs / kind / "held-0.json").read_text())}
    size = json.loads(whole)
    parts = [json.loads((runs / f"{kind}-divided" / f"held-{rank}.json").read_text()) for rank in (0, 1)]
    for first, second in zip(*parts, strict=True):
        assert {name: first[name] + second[name] for name in first} == size
        assert sum(first.values()) < 0.55 * sum(size.values())
    ends = [tensors(runs / f"{kind}-divided" / f"final-{rank}.safetensors") for rank in (0, 1)]
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


@pytest.mark.parametrize("kind", ["none", "lora", "cross"])
def test_what_is_frozen_comes_back_to_the_last_bit(runs: Path, kind: str) -> None:
    one, other = (runs / name / "checkpoint" / "frozen" / "decoder" for name in (kind, f"{kind}-divided"))
    before, after = tensors(one / "model.safetensors"), tensors(other / "model.safetensors")
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == [] or (kind == "cross" and all("cross" in name for name in moved))


def test_a_checkpoint_of_a_divided_model_loads_and_speaks(runs: Path, toy: Any) -> None:
    model = ToveModel.from_pretrained(runs / "cross-all-divided" / "checkpoint")
    assert model.trained and len(model.caption(toy.pictures(2))) == 2
    heads = model.decoder.language_model.get_output_embeddings(), model.decoder.language_model.get_input_embeddings()
    assert heads[0].weight is heads[1].weight


@pytest.mark.parametrize(("name", "kind"), [("resumed", "all"), ("term", "lora")])
def test_a_run_that_stopped_goes_on_to_the_last_bit(runs: Path, name: str, kind: str, processes: Any) -> None:
    wanted, found = (tensors(runs / run / "final-0.safetensors") for run in (f"{kind}-divided", name))
    assert [key for key in wanted if not torch.equal(wanted[key], found[key])] == []
    assert processes.metrics(runs / name) == processes.metrics(runs / f"{kind}-divided")


def test_one_process_can_go_on_with_what_two_have_left(runs: Path, processes: Any) -> None:
    alone, joined = processes.metrics(runs / "all"), processes.metrics(runs / "joined")
    assert [line["loss"] for line in joined] == pytest.approx([line["loss"] for line in alone], abs=1e-5)


def test_in_bfloat16_it_learns_as_well(runs: Path, processes: Any) -> None:
    alone, together = ([line["loss"] for line in processes.metrics(runs / name)] for name in ("half", "half-divided"))
    assert together == pytest.approx(alone, abs=0.05) and together[-1] < together[0]
    assert all(t.dtype == torch.float32 for t in tensors(runs / "half-divided" / "final-0.safetensors").values())


def test_one_process_has_nobody_to_share_with(toy: Any) -> None:
    model = toy.build()
    with pytest.raises(ConfigError, match="among processes and there is only one; start several with --nproc"):
        fit(model, toy.examples(model), TrainingConfig(shard="full"), quiet=True)
    assert model.decoder.language_model.model.layers[0].self_attn.q_proj.weight.numel() == 24 * 24


def test_what_cannot_be_divided_is_said_before_any_work() -> None:
    divided = TrainingConfig(shard="full")
    with pytest.raises(ConfigError, match="held in 4bit"):
        require_shardable(divided, DecoderConfig(name="x", quantize="4bit"), 2)
    with pytest.raises(ConfigError, match="divides a language model and there is none"):
        require_shardable(divided, None, 2)
    require_shardable(divided, DecoderConfig(name="x"), 2)
    require_shardable(TrainingConfig(), None, 1)
