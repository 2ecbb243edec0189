from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tove_core.config import FusionConfig
from tove_core.errors import ConfigError, ContractError, UnknownExpertError
from tove_core.fusion import build_transfer

NAMES = ["a", "b", "c"]
CASES = [("gate", "zero"), ("gate", "renormalise"), ("uniform", "zero"), ("concat", "zero")]


@pytest.mark.parametrize("init", ["rms", "zero"])
@pytest.mark.parametrize(("kind", "rule"), CASES)
def test_with_every_expert_off_the_tokens_are_clips_own_bit_for_bit(make, drawn, optimise, kind, rule, init):
    v, u = drawn
    transfer = make(kind, init=init, gate_null=True)
    optimise(transfer)
    assert not torch.equal(transfer(v, u).tokens, v), "training moved the tokens"
    for name in NAMES:
        transfer.switch_off(name, rule)
    assert torch.equal(transfer(v, {}).tokens, v)
    transfer.prune()
    assert torch.equal(transfer(v, {}).tokens, v)


@pytest.mark.parametrize(("kind", "rule"), CASES)
def test_a_sample_whose_experts_are_all_masked_keeps_its_tokens_bit_for_bit(make, drawn, optimise, kind, rule):
    v, u = drawn
    transfer = make(kind, rule=rule)
    optimise(transfer)
    mask = torch.tensor([[True, True, True], [False, False, False], [False, True, False]])
    fused = transfer(v, u, mask=mask)
    assert torch.equal(fused.tokens[1], v[1])
    assert not torch.equal(fused.tokens[0], v[0])
    assert torch.equal(transfer(v, u, mask=torch.zeros(3, 3, dtype=torch.bool)).tokens, v)


def test_the_gated_fusion_is_what_its_formula_says(make, drawn):
    v, u = drawn
    transfer = make(gate_temperature=0.7, gate_null=True).double()
    v, u = v.double(), {name: features.double() for name, features in u.items()}
    gate = transfer.gate
    scores = F.gelu(F.layer_norm(v, (12,), gate.norm.weight, gate.norm.bias) @ gate.hidden.weight.T + gate.hidden.bias)
    rows = [*(gate.rows[name] for name in NAMES), gate.null]
    logits = torch.cat([scores @ row.weight.T + row.bias for row in rows], -1) / 0.7
    weights = 4 * logits.softmax(-1)[..., :3]
    want = v.clone()
    for k, name in enumerate(NAMES):
        layer = transfer.first[name]
        want += weights[..., k, None] * (F.gelu(u[name] @ layer.weight.T + layer.bias) @ transfer.second.weight.T)
    fused = transfer(v, u)
    torch.testing.assert_close(fused.tokens, want)
    torch.testing.assert_close(fused.gates, weights)


@pytest.mark.parametrize("given", [{}, {"gate_activation": "sigmoid"}, {"gate_null": True}])
def test_the_gates_own_weights_are_those_of_a_plain_pass(make, drawn, given):
    v, u = drawn
    transfer = make(**given)
    assert not transfer(v, u).gates.eq(1).any()
    for off in ([], [("b", "zero")], [("b", "zero"), ("a", "zero")]):
        for name, rule in off:
            transfer.switch_off(name, rule)
        torch.testing.assert_close(transfer.weights(v), transfer(v, u).gates)
        assert not transfer.weights(v).requires_grad
    assert make("concat").weights(v) is None and torch.equal(make("uniform").weights(v), torch.ones(3, 11, 3))


def test_at_the_start_all_gates_are_one_and_the_gate_equals_the_uniform_sum(make, drawn):
    v, u = drawn
    gated, uniform = make(trained=False), make("uniform")
    uniform.load_state_dict(gated.state_dict(), strict=False)
    torch.testing.assert_close(gated(v, u).gates, torch.ones(3, 11, 3))
    torch.testing.assert_close(gated(v, u).tokens, uniform(v, u).tokens)


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat", "clip-mlp"])
@pytest.mark.parametrize("residual", [0.5, 0.1])
def test_calibration_gives_the_residual_its_share_of_the_rms(make, drawn, kind, residual):
    v, u = drawn
    transfer = make(kind, residual=residual)
    transfer.calibrate(100 * v, u)
    added = transfer(100 * v, u).tokens - 100 * v
    ratio = added.square().mean().sqrt() / (100 * v).square().mean().sqrt()
    torch.testing.assert_close(ratio, torch.tensor(residual), rtol=1e-4, atol=0)


def test_calibration_leaves_a_zero_start_alone(make, drawn):
    v, u = drawn
    transfer = make(init="zero")
    transfer.calibrate(v, u)
    assert torch.equal(transfer(v, u).tokens, v)


def test_calibration_without_a_residual_is_refused_and_changes_nothing(make, drawn):
    v, u = drawn
    transfer = make()
    before = transfer.second.weight.clone()
    for name in NAMES:
        transfer.switch_off(name, "zero")
    with pytest.raises(ConfigError, match="experts on: none"):
        transfer.calibrate(v, u)
    assert torch.equal(transfer.second.weight, before)


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat"])
def test_from_a_zero_start_first_linears_and_gate_get_a_task_gradient_at_the_second_step(make, drawn, kind):
    v, u = drawn
    transfer = make(kind, init="zero", trained=False)
    target = torch.randn(v.shape, generator=torch.Generator().manual_seed(1))

    def gradients():
        transfer.zero_grad()
        fused = transfer(v, u).tokens
        (fused - target).square().mean().backward()
        return fused, {name: float(p.grad.abs().max()) for name, p in transfer.named_parameters()}

    fused, first = gradients()
    assert torch.equal(fused, v)
    assert [name for name, size in first.items() if size > 0] == ["second.weight"]
    torch.optim.SGD(transfer.parameters(), lr=0.1).step()
    _, second = gradients()
    awake = {name for name, size in second.items() if size > 0}
    assert {f"first.{name}.weight" for name in NAMES} <= awake
    if kind == "gate":
        assert {f"gate.rows.{name}.weight" for name in NAMES} <= awake


@pytest.mark.parametrize(("kind", "rule"), CASES)
def test_a_masked_expert_is_an_expert_that_is_off_sample_by_sample(make, drawn, kind, rule):
    v, u = drawn
    transfer = make(kind, rule=rule)
    full = transfer(v, u).tokens
    masked = transfer(v, u, mask=torch.tensor([[True, False, True], [True, True, True], [True, True, False]])).tokens
    torch.testing.assert_close(masked[1], full[1])
    for sample, name in ((0, "b"), (2, "c")):
        transfer.switch_off(name, rule)
        torch.testing.assert_close(masked[sample], transfer(v, u).tokens[sample])
        transfer.switch_on(name)
    assert torch.equal(transfer(v, u).tokens, full), "switching on again restores everything"


@pytest.mark.parametrize(("kind", "rule"), CASES)
def test_a_masks_columns_keep_their_experts_when_another_expert_is_off(make, drawn, kind, rule):
    v, u = drawn
    transfer = make(kind, rule=rule)
    transfer.switch_off("a", rule)
    masked = transfer(v, u, mask=torch.tensor([[True, False, True]]).expand(3, 3)).tokens
    transfer.switch_off("b", rule)
    torch.testing.assert_close(masked, transfer(v, u).tokens)


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat"])
def test_what_a_masked_expert_gives_does_not_reach_the_tokens(make, drawn, kind):
    v, u = drawn
    transfer = make(kind)
    mask = torch.tensor([[True, False, True]]).expand(3, 3)
    clean = transfer(v, u, mask=mask).tokens
    assert torch.equal(transfer(v, u | {"b": torch.full_like(u["b"], torch.nan)}, mask=mask).tokens, clean)


@pytest.mark.parametrize("gone", [["a"], ["b"], ["c"], ["a", "c"]])
@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize(("kind", "rule"), CASES)
def test_what_remains_after_pruning_equals_the_full_model_with_the_expert_off(make, drawn, kind, rule, null, gone):
    v, u = drawn
    transfer = make(kind, gate_null=null)
    for name in gone:
        transfer.switch_off(name, rule)
    off = transfer(v, u)
    left = {name: features for name, features in u.items() if name not in gone}
    assert transfer.prune() == gone
    assert transfer.experts == list(left)
    pruned = transfer(v, left)
    assert torch.equal(pruned.tokens, off.tokens)
    assert transfer.ghosts == (gone if kind == "gate" and rule == "zero" else [])

    again = make(kind, experts={name: left[name].shape[-1] for name in left}, ghosts=transfer.ghosts, gate_null=null)
    again.load_state_dict(transfer.state_dict())
    assert torch.equal(again(v, left).tokens, off.tokens), "as a checkpoint would bring it back"


def test_the_two_rules_give_the_weights_they_promise(make, drawn):
    v, u = drawn
    transfer = make()
    full = transfer(v, u).gates
    transfer.switch_off("b", "zero")
    zero = transfer(v, u).gates
    torch.testing.assert_close(zero[..., [0, 2]], full[..., [0, 2]])
    torch.testing.assert_close(zero.sum(-1), 3 - full[..., 1])
    transfer.switch_off("b", "renormalise")
    renormalised = transfer(v, u).gates
    torch.testing.assert_close(renormalised.sum(-1), torch.full((3, 11), 2.0))
    torch.testing.assert_close(renormalised[..., 0] / renormalised[..., 2], full[..., 0] / full[..., 2])
    for gates in (zero, renormalised):
        assert torch.equal(gates[..., 1], torch.zeros(3, 11))


def test_an_expert_that_is_off_gets_no_gradient_and_its_features_are_not_read(make, drawn):
    v, u = drawn
    transfer = make()
    transfer.switch_off("b", "zero")
    transfer(v, {"a": u["a"], "c": u["c"]}).tokens.sum().backward()
    assert transfer.first["b"].weight.grad is None
    assert transfer.first["a"].weight.grad.abs().max() > 0
    assert transfer.gate.rows["b"].weight.grad.abs().max() > 0, "the softmax still counts it"


def test_the_terms_add_up_to_the_residual(make, drawn):
    v, u = drawn
    transfer = make()
    transfer.switch_off("a", "zero")
    terms = transfer.terms(v, u)
    assert [name for name, _, _ in terms] == ["b", "c"]
    total = sum(gates[..., None] * transfer.second(hidden) for _, gates, hidden in terms)
    torch.testing.assert_close(v + total, transfer(v, u).tokens)


def test_the_second_linear_is_shared_and_has_no_bias(make):
    names = [name for name, _ in make().named_parameters() if name.startswith("second")]
    assert names == ["second.weight"]


def test_tokens_keep_their_type(make, drawn):
    v, u = drawn
    fused = make().bfloat16()(v.bfloat16(), {name: features.bfloat16() for name, features in u.items()})
    assert fused.tokens.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["uniform", "concat"])
def test_renormalising_without_a_softmax_is_refused(make, kind):
    with pytest.raises(ConfigError, match=f"fusion '{kind}' has no softmax to renormalise; use rule 'zero'"):
        make(kind).switch_off("a", "renormalise")
    with pytest.raises(ConfigError, match="no softmax"):
        make(gate_activation="sigmoid").switch_off("a", "renormalise")


def test_switching_an_expert_that_is_not_there_names_those_that_are(make):
    transfer = make()
    for switch in (lambda: transfer.switch_off("d", "zero"), lambda: transfer.switch_on("d")):
        with pytest.raises(UnknownExpertError, match="no expert 'd'; it has: a, b, c"):
            switch()
    transfer.switch_off("a", "zero")
    transfer.prune()
    with pytest.raises(UnknownExpertError, match="it has: b, c"):
        transfer.switch_on("a")


def test_features_that_are_missing_or_of_another_shape_are_refused(make, drawn):
    v, u = drawn
    with pytest.raises(ContractError, match=r"'b' are missing; wanted aligned tokens \[3, 11, 7\]"):
        make()(v, {"a": u["a"], "c": u["c"]})
    for wrong in (u["b"][..., :6], u["b"][:1], u["b"][:, :1]):
        with pytest.raises(ContractError, match=r"'b' are \(.*wanted aligned tokens \[3, 11, 7\]"):
            make()(v, u | {"b": wrong})


@pytest.mark.parametrize("shape", [(3, 2), (1, 3), (3, 4), (3, 11, 3), (3,)])
@pytest.mark.parametrize("kind", ["gate", "concat"])
def test_a_mask_of_another_shape_is_refused(make, drawn, kind, shape):
    v, u = drawn
    with pytest.raises(ConfigError, match=r"wanted \[3, 3\], a column for each of a, b, c"):
        make(kind)(v, u, mask=torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("name", ["pop", "keys", "train", "training", "a.b", ""])
def test_a_name_that_cannot_be_a_modules_is_refused(name):
    with pytest.raises(ConfigError, match="cannot be called"):
        build_transfer(FusionConfig(), 12, {name: 5})
    with pytest.raises(ConfigError, match="cannot be called"):
        build_transfer(FusionConfig(), 12, {"a": 5}, [name])


def test_qualified_names_with_variants_work_as_names(make):
    experts = {"tove-core/dinov2:small": 5, "other/dinov2": 7}
    transfer = make(experts=experts)
    transfer.switch_off("other/dinov2", "zero")
    assert (transfer.prune(), transfer.ghosts) == (["other/dinov2"], ["other/dinov2"])


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat"])
def test_without_experts_there_is_nothing_to_build(kind):
    assert build_transfer(FusionConfig(kind=kind), 12, {}) is None


@pytest.mark.parametrize("kind", ["gate", "uniform", "concat"])
def test_replace_leaves_only_what_the_experts_give_at_the_rms_of_the_tokens(make, drawn, optimise, kind):
    v, u = drawn
    alone, beside = make(kind, replace=True), make(kind)
    beside.load_state_dict(alone.state_dict())
    torch.testing.assert_close(alone(v, u).tokens, beside(v, u).tokens - v)
    alone.calibrate(v, u)
    rms = alone(v, u).tokens.square().mean().sqrt()
    torch.testing.assert_close(rms, v.square().mean().sqrt())
    optimise(alone)
    for name in NAMES:
        alone.switch_off(name, "zero")
    assert torch.equal(alone(v, {}).tokens, v), "without any expert there is nothing to replace v with"


@pytest.mark.parametrize("told", [{"kind": "clip-mlp"}, {"kind": "gate", "init": "zero"}])
def test_replace_is_refused_where_nothing_would_stand_for_the_tokens(told):
    with pytest.raises(ValueError, match="replace puts what experts give in place of v"):
        FusionConfig(replace=True, **told)
