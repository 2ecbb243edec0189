"""An expert that joins a trained fusion: gate of its own, first linear from zero."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.fusion import build_transfer

KINDS = [("gate", "zero"), ("gate", "renormalise"), ("uniform", "zero"), ("concat", "zero")]
ALL = {"a": 5, "b": 7, "c": 3, "d": 13}


@pytest.fixture
def drawn4(draw):
    return draw(ALL)


def wake(transfer, *names):
    """Give experts that joined what training would: weights and gate rows that are not zero."""
    generator = torch.Generator().manual_seed(17)
    with torch.no_grad():
        for name in names:
            for parameter in transfer.of_expert(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "rule"), KINDS)
def test_joining_changes_no_bit_of_the_tokens_and_no_other_gate(make, drawn4, kind, rule, dtype):
    v, u = drawn4[0].to(dtype), {name: features.to(dtype) for name, features in drawn4[1].items()}
    transfer = make(kind, rule=rule, gate_null=True).to(dtype)
    masks = [None, torch.tensor([[True, False, True], [False, False, False], [True, True, True]])]
    before = [transfer(v, u, mask=mask) for mask in masks]
    transfer.add("d", 13)
    assert transfer.experts == ["a", "b", "c", "d"]
    for mask, old in zip(masks, before, strict=True):
        wider = None if mask is None else torch.cat([mask, mask.new_ones(3, 1)], 1)
        new = transfer(v, u, mask=wider)
        assert torch.equal(new.tokens, old.tokens)
        if kind == "gate":
            assert torch.equal(new.gates[..., :3], old.gates)
            assert torch.equal(new.gates[..., 3], torch.ones(3, 11))


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat"])
def test_it_learns_from_the_first_step_though_it_starts_at_zero(make, drawn4, kind):
    v, u = drawn4
    transfer = make(kind)
    transfer.add("d", 13)
    target = torch.randn(v.shape, generator=torch.Generator().manual_seed(1))
    (transfer(v, u).tokens - target).square().mean().backward()
    assert transfer.first["d"].weight.grad.abs().max() > 0
    # dL/dW_d = (0.5 W_sᵀ dL/dv')ᵀ u_d: GELU has slope 0.5 at 0, and the gate is 1.
    if kind != "concat":
        slope = 2 * (transfer(v, u).tokens - target) / target.numel()
        wanted = torch.einsum("bnd,dh,bnc->hc", slope, 0.5 * transfer.second.weight, u["d"])
        torch.testing.assert_close(transfer.first["d"].weight.grad, wanted)


def test_its_gate_is_twice_a_sigmoid_on_the_same_features_and_leaves_the_others_alone(make, drawn4):
    v, u = drawn4
    transfer = make(gate_temperature=0.7)
    before = transfer(v, u).gates
    transfer.add("d", 13)
    wake(transfer, "d")
    gate, fused = transfer.gate, transfer(v, u)
    features = F.gelu(gate.hidden(F.layer_norm(v, (12,), gate.norm.weight, gate.norm.bias)))
    wanted = 2 * torch.sigmoid((features @ gate.own["d"].weight.T + gate.own["d"].bias) / 0.7)
    torch.testing.assert_close(fused.gates[..., 3:], wanted)
    assert torch.equal(fused.gates[..., :3], before)
    term = wanted * transfer.second(F.gelu(transfer.first["d"](u["d"])))
    transfer.switch_off("d", "zero")
    torch.testing.assert_close(fused.tokens, transfer(v, u).tokens + term)


@pytest.mark.parametrize(("kind", "rule"), KINDS)
def test_without_it_the_model_is_the_old_one_bit_for_bit_switched_off_masked_or_pruned(make, drawn4, kind, rule):
    v, u = drawn4
    transfer = make(kind, rule=rule)
    before = transfer(v, u).tokens
    transfer.add("d", 13)
    wake(transfer, "d")
    assert not torch.equal(transfer(v, u).tokens, before)
    mask = torch.tensor([[True, True, True, False]]).expand(3, 4)
    if kind != "concat":
        torch.testing.assert_close(transfer(v, u, mask=mask).tokens, before)
    transfer.switch_off("d", rule)
    assert torch.equal(transfer(v, u).tokens, before)
    assert transfer.prune() == ["d"]
    assert torch.equal(transfer(v, u).tokens, before)
    assert transfer.ghosts == [] and not any(".d." in name for name in dict(transfer.named_parameters()))


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("gone", [["a"], ["d"], ["a", "d"], ["a", "b", "c"], ["a", "b", "c", "d", "e"]])
def test_pruned_and_built_again_it_equals_the_full_model_with_those_off(make, draw, rule, gone):
    sizes = {**ALL, "e": 2}
    v, u = draw(sizes)
    transfer = make(rule=rule, gate_null=True)
    for name in ("d", "e"):
        transfer.add(name, sizes[name])
        wake(transfer, name)
    full = transfer(v, u).gates
    for name in gone:
        transfer.switch_off(name, rule)
    off = transfer(v, u)
    if off.gates is not None:
        assert torch.equal(off.gates[..., [sizes_index(sizes, n) for n in gone]], torch.zeros(3, 11, len(gone)))
        kept = [n for n in ("d", "e") if n not in gone]
        columns = [sizes_index(sizes, n) for n in kept]
        assert torch.equal(off.gates[..., columns], full[..., columns])
    transfer.prune()
    left = {name: features for name, features in u.items() if name not in gone}
    assert torch.equal(transfer(v, left).tokens, off.tokens)
    assert transfer.ghosts == ([n for n in gone if n in "abc"] if rule == "zero" else [])
    if not left:
        return
    experts = {name: sizes[name] for name in left}
    again = build_transfer(transfer.config, 12, experts, transfer.ghosts, transfer.apart)
    again.load_state_dict(transfer.state_dict())
    assert torch.equal(again(v, left).tokens, off.tokens)


def sizes_index(sizes, name):
    return list(sizes).index(name)


def test_an_expert_may_come_back_under_the_name_of_its_ghost(make, drawn):
    v, u = drawn
    transfer = make()
    transfer.switch_off("b", "zero")
    transfer.prune()
    before = transfer(v, u)
    transfer.add("b", 7)
    assert transfer.experts == ["a", "c", "b"] and transfer.ghosts == ["b"] and transfer.apart == ["b"]
    assert torch.equal(transfer(v, u).tokens, before.tokens)
    wake(transfer, "b")
    transfer.switch_off("b", "renormalise")
    assert torch.equal(transfer(v, u).tokens, before.tokens), "its ghost still counts in the softmax"
    transfer.prune()
    assert transfer.ghosts == ["b"] and torch.equal(transfer(v, u).tokens, before.tokens)


def test_gates_come_in_the_order_of_experts_wherever_the_one_apart_stands(draw):
    sizes = {"d": 13, "a": 5, "b": 7}
    v, u = draw(sizes)
    transfer = build_transfer(fusion_config(), 12, sizes, (), ["d"])
    wake(transfer, "d", "a", "b")
    gates = transfer(v, u).gates
    torch.testing.assert_close(gates[..., 1] + gates[..., 2], torch.full((3, 11), 2.0))
    terms = transfer.terms(v, u)
    total = sum(g[..., None] * transfer.second(hidden) for _, g, hidden in terms)
    torch.testing.assert_close(v + total, transfer(v, u).tokens)
    for k, name in enumerate(sizes):
        assert torch.equal(next(g for n, g, _ in terms if n == name), gates[..., k])


def fusion_config():
    from tove_core.config import FusionConfig, GateConfig

    return FusionConfig(hidden=9, gate=GateConfig(hidden=6))


def test_noise_on_its_gate_belongs_to_the_sample_and_leaves_the_shared_noise_as_it_was(make, drawn4):
    v, u = drawn4
    transfer, keys = make(), torch.tensor([5, 6, 7])
    before = transfer(v, u, keys=keys, noise=0.5).gates
    transfer.add("d", 13)
    noisy = transfer(v, u, keys=keys, noise=0.5).gates
    assert torch.equal(noisy[..., :3], before)
    assert noisy[..., 3].std() > 0.05
    swapped = transfer(v[[2, 0]], {n: x[[2, 0]] for n, x in u.items()}, keys=keys[[2, 0]], noise=0.5).gates
    torch.testing.assert_close(swapped, noisy[[2, 0]])


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_gates_asked_for_alone_are_those_of_a_pass_with_the_same_options(make, drawn4, rule):
    v, u = drawn4
    transfer = make(rule=rule, gate_null=True)
    transfer.add("d", 13)
    wake(transfer, "a", "b", "d")
    transfer.switch_off("c", rule)
    mask = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    for options in ({}, {"mask": mask}, {"mask": mask, "keys": torch.tensor([3, 1, 4]), "noise": 0.7}):
        assert torch.equal(transfer.weights(v, **options), transfer(v, u, **options).gates)
    with pytest.raises(ConfigError, match="mask"):
        transfer.weights(v, mask=mask[:2])
    for name in "abd":
        transfer.switch_off(name, rule)
    assert transfer.weights(v) is None and transfer(v, {}).gates is None


def test_what_all_gates_go_by_is_worked_out_once(make, drawn4):
    v, u = drawn4
    transfer, seen = make(gate_null=True), []
    transfer.add("d", 13)
    transfer.gate.hidden.register_forward_hook(lambda *_: seen.append(1))
    transfer.requires_grad_(False)  # as where an expert joins a trained hub
    for parameter in transfer.of_expert("d"):
        parameter.requires_grad_(True)
    transfer(v, u, keys=torch.arange(3), noise=0.4)
    assert len(seen) == 1
    transfer.requires_grad_(True).weights(v)
    assert len(seen) == 2


def test_a_second_expert_changes_no_bit_of_the_firsts_gate_and_of_the_tokens(make, draw):
    sizes = {**ALL, "e": 2}
    v, u = draw(sizes)
    transfer = make()
    transfer.add("d", 13)
    wake(transfer, "d")
    before = transfer(v, u)
    transfer.add("e", 2)
    after = transfer(v, u)
    assert torch.equal(after.tokens, before.tokens) and torch.equal(after.gates[..., :4], before.gates)


def test_frozen_rows_of_the_shared_gate_get_no_noise(make, drawn4):
    v, u = drawn4
    transfer, keys = make(), torch.tensor([5, 6, 7])
    plain = transfer(v, u).gates
    transfer.add("d", 13)
    transfer.gate.rows.requires_grad_(False)
    noisy = transfer(v, u, keys=keys, noise=0.5).gates
    assert torch.equal(noisy[..., :3], plain) and noisy[..., 3].std() > 0.05


def test_what_a_masked_expert_apart_gives_does_not_reach_tokens_or_gradients(make, drawn4):
    v, u = drawn4
    transfer = make()
    transfer.add("d", 13)
    wake(transfer, "d")
    mask = torch.tensor([[True, True, True, False]]).expand(3, 4)
    clean = transfer(v, u, mask=mask).tokens
    dirty = transfer(v, u | {"d": torch.full_like(u["d"], torch.nan)}, mask=mask).tokens
    assert torch.equal(clean, dirty)
    dirty.sum().backward()
    assert all(p.grad.isfinite().all() for p in transfer.gate.parameters())


def test_experts_that_cannot_join_are_refused_and_nothing_changes(make):
    transfer = make()
    names = list(dict(transfer.named_parameters()))
    with pytest.raises(ConfigError, match="holds an expert 'a' already"):
        transfer.add("a", 5)
    assert list(dict(transfer.named_parameters())) == names
    with pytest.raises(ConfigError, match="'d' cannot learn through the shared linear"):
        make(init="zero").add("d", 13)
    with pytest.raises(ConfigError, match="'clip-mlp' uses no experts, so 'd' cannot join"):
        make("clip-mlp").add("d", 13)
    with pytest.raises(UnknownExpertError, match="no expert 'd'"):
        transfer.of_expert("d")


def test_what_belongs_to_an_expert_is_its_first_linear_and_its_row(make):
    transfer = make()
    transfer.add("d", 13)
    names = {id(p): name for name, p in transfer.named_parameters()}
    for name, rows in (("d", "own"), ("b", "rows")):
        found = {names[id(p)] for p in transfer.of_expert(name)}
        assert found == {f"{place}.{name}.{p}" for place in ("first", f"gate.{rows}") for p in ("weight", "bias")}
