from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tove_core.config import FusionConfig
from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.fusion import build_transfer


def test_uniform_adds_every_expert_with_weight_one(make, drawn):
    v, u = drawn
    transfer = make("uniform")
    want = v + sum(transfer.second(F.gelu(transfer.first[name](u[name]))) for name in u)
    torch.testing.assert_close(transfer(v, u).tokens, want)


def test_uniform_keeps_weight_one_for_the_experts_that_are_left(make, drawn):
    v, u = drawn
    transfer = make("uniform")
    transfer.switch_off("b", "zero")
    want = v + sum(transfer.second(F.gelu(transfer.first[name](u[name]))) for name in ("a", "c"))
    torch.testing.assert_close(transfer(v, u).tokens, want)


def test_concat_is_one_mlp_over_all_channels(make, drawn):
    v, u = drawn
    transfer = make("concat")
    with torch.no_grad():
        transfer.bias.normal_(generator=torch.Generator().manual_seed(2))
    weight = torch.cat([transfer.first[name].weight for name in u], 1)
    want = v + transfer.second(F.gelu(torch.cat(list(u.values()), -1) @ weight.T + transfer.bias))
    torch.testing.assert_close(transfer(v, u).tokens, want)


def test_concat_without_an_expert_is_concat_with_zeros_in_its_place(make, drawn, optimise):
    v, u = drawn
    transfer = make("concat")
    optimise(transfer)
    zeros = u | {"b": torch.zeros_like(u["b"])}
    want = transfer(v, zeros).tokens
    transfer.switch_off("b", "zero")
    torch.testing.assert_close(transfer(v, u).tokens, want)


def test_clip_mlp_reads_clip_alone(make, drawn):
    v, _ = drawn
    transfer = make("clip-mlp")
    layer = transfer.first["clip"]
    want = v + transfer.second(F.gelu(v @ layer.weight.T + layer.bias))
    fused = transfer(v, {}, mask=None, keys=torch.arange(3), noise=0.5)
    torch.testing.assert_close(fused.tokens, want)
    assert fused.gates is None
    assert transfer.experts == []


def test_clip_mlp_takes_no_experts_and_has_none_to_switch(make):
    with pytest.raises(ConfigError, match="uses no experts, got a, b; leave experts empty"):
        build_transfer(FusionConfig(kind="clip-mlp"), 12, {"a": 5, "b": 7})
    with pytest.raises(UnknownExpertError, match="it has: none"):
        make("clip-mlp").switch_off("clip", "zero")


@pytest.mark.parametrize("kind", ["uniform", "concat", "clip-mlp"])
def test_a_baseline_has_no_gate_to_train_or_balance(make, kind):
    transfer = make(kind)
    assert not [name for name, _ in transfer.named_parameters() if "gate" in name]
    assert not transfer.has_softmax
    assert transfer.ghosts == []
    if kind != "uniform":
        assert transfer.terms(torch.zeros(1, 1, 12), {}) == []


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat", "clip-mlp"])
def test_every_parameter_learns(make, drawn, kind):
    v, u = drawn
    transfer = make(kind)
    transfer(v, u).tokens.square().sum().backward()
    idle = [name for name, p in transfer.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert idle == []
