from __future__ import annotations

import math

import pytest
import torch
from tove_kernels import gate_weights


def reference(logits, experts, mask=None, rule="zero", activation="softmax"):
    """Gate weights entry by entry in Python floats, from the definition alone."""
    out = torch.zeros(*logits.shape[:2], experts, dtype=torch.float64)
    for b, n in [(b, n) for b in range(logits.shape[0]) for n in range(logits.shape[1])]:
        row = [float(x) for x in logits[b, n]]
        on = [True] * len(row)
        if mask is not None:
            on[:experts] = (mask[b] if mask.dim() == 2 else mask[b, n]).tolist()
        counted = on if rule == "renormalise" else [True] * len(row)
        top = max((x for x, c in zip(row, counted, strict=True) if c), default=0.0)
        total = sum(math.exp(x - top) for x, c in zip(row, counted, strict=True) if c)
        for k in range(experts):
            if not on[k]:
                continue
            if activation == "sigmoid":
                out[b, n, k] = 2 / (1 + math.exp(-row[k]))
            else:
                out[b, n, k] = sum(counted) * math.exp(row[k] - top) / total
    return out


def draw(tokens, experts, extra=0, *, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, tokens, experts + extra, generator=generator, dtype=torch.float64)
    sample = torch.rand(3, experts, generator=generator) < 0.6
    token = torch.rand(3, tokens, experts, generator=generator) < 0.6
    return logits, {"all on": None, "per sample": sample, "per token": token}


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("which", ["all on", "per sample", "per token"])
@pytest.mark.parametrize(("tokens", "experts", "extra"), [(1, 1, 0), (63, 2, 1), (63, 3, 0), (7, 5, 2), (197, 8, 1)])
def test_weights_follow_the_definition(tokens, experts, extra, which, rule, activation):
    logits, masks = draw(tokens, experts, extra)
    got = gate_weights(logits, experts, mask=masks[which], rule=rule, activation=activation)
    want = reference(logits, experts, masks[which], rule, activation)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("entries", [1, 2, 3, 5, 8])
def test_equal_logits_give_every_expert_weight_one(entries):
    logits = torch.full((2, 7, entries), 1.7, dtype=torch.float64)
    torch.testing.assert_close(gate_weights(logits, entries), torch.ones_like(logits))
    zeros = torch.zeros_like(logits)
    torch.testing.assert_close(gate_weights(zeros, entries, activation="sigmoid"), torch.ones_like(logits))


def test_softmax_gates_sum_to_the_number_of_entries_when_no_entry_is_extra():
    logits, _ = draw(63, 5)
    torch.testing.assert_close(gate_weights(logits, 5).sum(-1), torch.full((3, 63), 5.0, dtype=torch.float64))


def test_under_zero_the_others_keep_their_weights_and_the_sum_loses_what_is_off():
    logits, _ = draw(63, 5)
    full = gate_weights(logits, 5)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[:, 2] = False
    got = gate_weights(logits, 5, mask=mask, rule="zero")
    others = [0, 1, 3, 4]
    assert torch.equal(got[..., others], full[..., others])
    torch.testing.assert_close(got.sum(-1), 5 - full[..., 2])


@pytest.mark.parametrize("extra", [0, 2])
def test_under_renormalise_gates_and_extras_sum_to_the_number_of_entries_still_in(extra):
    logits, masks = draw(63, 5, extra)
    mask = masks["per token"]
    weights = gate_weights(logits, 5, mask=mask, rule="renormalise")
    entries = mask.sum(-1) + extra
    kept = torch.cat([mask, torch.ones(3, 63, extra, dtype=torch.bool)], -1)
    scores = torch.where(kept, logits, torch.tensor(-math.inf, dtype=torch.float64)).softmax(-1)
    share = scores[..., :5].nan_to_num().sum(-1)
    torch.testing.assert_close(weights.sum(-1), share * entries)


def test_renormalising_equals_never_having_had_the_expert():
    logits, _ = draw(63, 4, 1)
    mask = torch.tensor([[True, False, True, False]]).expand(3, 4)
    got = gate_weights(logits, 4, mask=mask, rule="renormalise")[..., [0, 2]]
    torch.testing.assert_close(got, gate_weights(logits[..., [0, 2, 4]], 2))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("extra", [0, 1])
def test_all_off_gives_exact_zeros_and_zero_gradients(rule, activation, extra):
    logits, _ = draw(7, 3, extra, scale=300.0)
    logits.requires_grad_()
    weights = gate_weights(logits, 3, mask=torch.zeros(3, 3, dtype=torch.bool), rule=rule, activation=activation)
    assert torch.equal(weights, torch.zeros(3, 7, 3, dtype=torch.float64))
    weights.sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_logit_of_an_expert_left_out_reaches_neither_weights_nor_gradients(bad):
    logits, _ = draw(7, 3, 1)
    mask = torch.tensor([[True, False, True]]).expand(3, 3)
    spoilt = logits.clone()
    spoilt[..., 1] = bad
    spoilt.requires_grad_()
    weights = gate_weights(spoilt, 3, mask=mask, rule="renormalise")
    assert torch.equal(weights, gate_weights(logits, 3, mask=mask, rule="renormalise"))
    weights.square().sum().backward()
    assert spoilt.grad.isfinite().all()
    assert spoilt.grad[..., 1].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_extreme_logits_stay_finite(dtype, rule):
    logits = torch.tensor([[[300.0, -300.0, 0.0], [-300.0, -300.0, -300.0], [300.0, 300.0, -300.0]]], dtype=dtype)
    mask = torch.tensor([[[True, True, True], [False, True, True], [True, False, True]]])
    weights = gate_weights(logits, 3, mask=mask, rule=rule)
    assert weights.dtype == torch.float32
    want = {
        "zero": [[3.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.5, 0.0, 0.0]],
        "renormalise": [[3.0, 0.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, 0.0]],
    }
    torch.testing.assert_close(weights, torch.tensor([want[rule]]))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("which", ["all on", "per sample", "per token"])
def test_gradients_agree_with_finite_differences(which, rule, activation):
    logits, masks = draw(3, 3, 1)
    assert torch.autograd.gradcheck(
        lambda x: gate_weights(x, 3, mask=masks[which], rule=rule, activation=activation), logits.requires_grad_()
    )


@pytest.mark.parametrize(
    ("logits", "experts", "mask", "message"),
    [
        ((2, 5, 3), 4, None, "4 experts"),
        ((2, 5, 3), 0, None, "0 experts"),
        ((5, 3), 3, None, r"wanted \[B, N, E\]"),
        ((2, 5, 3), 3, (2, 1), r"mask has shape \(2, 1\)"),
        ((2, 5, 3), 3, (1, 3), r"mask has shape \(1, 3\)"),
        ((2, 5, 3), 2, (2, 3), r"mask has shape \(2, 3\)"),
        ((2, 5, 3), 3, (2, 4, 3), r"mask has shape \(2, 4, 3\)"),
        ((2, 5, 3), 3, (3,), r"mask has shape \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_and_never_broadcast(logits, experts, mask, message):
    given = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        gate_weights(torch.zeros(logits), experts, mask=given)


def test_a_mask_that_is_not_boolean_is_refused():
    with pytest.raises(ValueError, match=r"the mask is torch\.float32; wanted torch\.bool"):
        gate_weights(torch.zeros(2, 5, 3), 3, mask=torch.ones(2, 3))


@pytest.mark.parametrize("given", [{"rule": "renormalize"}, {"activation": "relu"}])
def test_an_unknown_rule_or_activation_is_refused(given):
    with pytest.raises(ValueError, match=next(iter(given.values()))):
        gate_weights(torch.zeros(2, 5, 3), 3, **given)
