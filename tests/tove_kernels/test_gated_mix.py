from __future__ import annotations

import math

import pytest
import torch
from tove_kernels import gate_weights, gated_mix
from tove_kernels.residual_mix import reference

SIZES = [(1, 17, 1, 0, 0), (63, 96, 2, 1, 1), (7, 17, 3, 0, 2), (197, 17, 5, 2, 0), (63, 17, 8, 1, 1)]


def draw(tokens, width, experts, extra=0, prefix=0, *, dtype=torch.float64):
    g = torch.Generator().manual_seed(4)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    masks = {
        "all on": None,
        "per sample": torch.rand(2, experts, generator=g) < 0.6,
        "per token": torch.rand(2, tokens, experts, generator=g) < 0.6,
    }
    experts_tokens = [normal(2, tokens - prefix, width) for _ in range(experts)]
    return normal(2, tokens, width), experts_tokens, 2 * normal(2, tokens, experts + extra), masks


def definition(v, experts, logits, mask, rule, prefix, activation="softmax"):
    weights = gate_weights(logits, len(experts), mask=mask, rule=rule, activation=activation)[:, prefix:]
    body = v[:, prefix:] + torch.einsum("bnk,bnkd->bnd", weights, torch.stack(experts, 2))
    return torch.cat([v[:, :prefix], body], 1)


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("which", ["all on", "per sample", "per token"])
@pytest.mark.parametrize("size", SIZES)
def test_the_mix_follows_the_definition(size, which, rule):
    v, experts, logits, masks = draw(*size)
    got = gated_mix(v, experts, logits, mask=masks[which], rule=rule, prefix=size[-1])
    torch.testing.assert_close(
        got, definition(v, experts, logits, masks[which], rule, size[-1]), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("activation", ["sigmoid", "given"])
def test_other_gates_follow_the_definition(activation):
    v, experts, logits, masks = draw(7, 17, 3, prefix=1)
    got = gated_mix(v, experts, logits, mask=masks["per token"], activation=activation, prefix=1)
    want = definition(v, experts, logits, masks["per token"], "zero", 1, activation)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "given"])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("which", ["all on", "per sample", "per token"])
def test_written_out_gradients_agree_with_autograd_and_finite_differences(which, rule, activation):
    extra = 0 if activation == "given" else 1
    v, experts, logits, masks = draw(4, 3, 2, extra, 1)
    given = [x.requires_grad_() for x in (v, logits, *experts)]

    def mix(v, logits, *experts):
        return gated_mix(v, experts, logits, mask=masks[which], rule=rule, activation=activation, prefix=1)

    assert torch.autograd.gradcheck(mix, given)
    grad = torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(5))
    want = torch.autograd.grad(mix(*given), given, grad)
    got = reference.gated_mix_backward(grad, experts, logits, masks[which], rule, activation, 1, (True, True))
    for one, true in zip(got, want[1:], strict=True):
        torch.testing.assert_close(one, true, rtol=1e-12, atol=1e-12)
    alone = reference.gated_mix_backward(grad, experts, logits, masks[which], rule, activation, 1, (False, True))
    assert alone[0].numel() == 0 and torch.equal(alone[1], got[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["per sample", "per token"])
def test_what_a_masked_row_holds_reaches_neither_the_mix_nor_gradients(bad, which):
    v, experts, logits, masks = draw(7, 17, 3)
    mask = masks[which]
    off = ~(mask[:, None] if mask.dim() == 2 else mask).expand(2, 7, 3)
    clean = gated_mix(v, experts, logits, mask=mask)
    for k, expert in enumerate(experts):
        expert[off[..., k]] = bad
    given = [x.requires_grad_() for x in (v, logits, *experts)]
    got = gated_mix(v, experts, logits, mask=mask)
    assert torch.equal(got, clean)
    got.square().sum().backward()
    assert all(x.grad.isfinite().all() for x in given)
    by_hand = reference.gated_mix_backward(2 * got.detach(), experts, logits, mask, "zero", "softmax", 0, (True, True))
    for one, x in zip(by_hand, given[1:], strict=True):
        torch.testing.assert_close(one, x.grad)


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_row_with_every_expert_off_is_the_token_to_the_last_bit(rule, prefix):
    v, experts, logits, _ = draw(7, 17, 3, 1, prefix, dtype=torch.float32)
    v[0] = -0.0
    off = torch.tensor([[False] * 3, [True] * 3])
    got = gated_mix(v, experts, 300 * logits, mask=off, rule=rule, prefix=prefix)
    assert torch.equal(got[0].view(torch.int32), v[0].view(torch.int32))
    assert not torch.equal(got[1], v[1])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 5e-4), (torch.bfloat16, 2.5e-3)]
)
def test_sums_round_once_whatever_the_type(dtype, tolerance):
    v, experts, logits, masks = draw(63, 96, 8, 1, 1, dtype=dtype)
    wide = [x.double() for x in experts]
    want = definition(v.double(), wide, logits.double(), masks["per token"], "zero", 1)
    got = gated_mix(v, experts, logits, mask=masks["per token"], prefix=1)
    assert got.dtype == dtype
    assert (got.double() - want).norm() <= tolerance * want.norm()


def test_arguments_are_left_as_they_were():
    v, experts, logits, masks = draw(7, 17, 2, 1, 1)
    given = (v, logits, *experts)
    before = [x.clone() for x in given]
    for mask in masks.values():
        gated_mix(v, experts, logits, mask=mask, prefix=1)
        assert gated_mix(v, experts, logits, mask=mask, prefix=1).data_ptr() != v.data_ptr()
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


@pytest.mark.parametrize(
    ("tokens", "experts", "logits", "prefix", "message"),
    [
        ((2, 7, 5), [], (2, 7, 1), 0, "no expert tensors were given"),
        ((7, 5), [(7, 5)], (7, 1), 0, r"tokens are torch.float32 of shape \(7, 5\)"),
        (
            (2, 7, 5),
            [(2, 7, 5), (2, 6, 5)],
            (2, 7, 2),
            0,
            r"experts\[1\] has shape \(2, 6, 5\); wanted .* = \[2, 7, 5\]",
        ),
        ((2, 7, 5), [(2, 7, 5)], (2, 7, 1), 1, r"experts\[0\] has shape \(2, 7, 5\); wanted .* = \[2, 6, 5\]"),
        ((2, 7, 5), [(2, 7, 1)], (2, 7, 1), 0, r"experts\[0\] has shape"),
        ((2, 7, 5), [(2, 7, 5)] * 2, (2, 7, 1), 0, "wanted .* with E of at least 2"),
        ((2, 7, 5), [(2, 6, 5)], (2, 6, 1), 1, r"logits have shape \(2, 6, 1\); wanted \[2, 7, E\]"),
        ((2, 7, 5), [(2, 7, 5)], (2, 7, 1), 8, "prefix is 8; wanted 0 to 7"),
        ((2, 7, 5), [(2, 7, 5)], (2, 7, 1), -1, "prefix is -1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tokens, experts, logits, prefix, message):
    with pytest.raises(ValueError, match=message):
        gated_mix(torch.zeros(tokens), [torch.zeros(one) for one in experts], torch.zeros(logits), prefix=prefix)


def test_types_masks_and_devices_that_do_not_fit_are_refused():
    v, logits = torch.zeros(2, 7, 5), torch.zeros(2, 7, 2)
    with pytest.raises(ValueError, match=r"experts\[1\] is torch.int64; wanted a floating-point type"):
        gated_mix(v, [v, v.long()], logits)
    with pytest.raises(ValueError, match=r"logits are torch.int64"):
        gated_mix(v, [v, v], logits.long())
    with pytest.raises(ValueError, match=r"the mask is torch.float32; wanted torch.bool"):
        gated_mix(v, [v, v], logits, mask=torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"wanted \[2, 2\] or \[2, 7, 2\]"):
        gated_mix(v, [v, v], logits, mask=torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"given weights have 3 entries for 2 experts"):
        gated_mix(v, [v, v], torch.zeros(2, 7, 3), activation="given")
    with pytest.raises(ValueError, match=r"several devices \(tokens on cpu, experts on cpu and meta, logits on cpu\)"):
        gated_mix(v, [v, v.to("meta")], logits)
    with pytest.raises(ValueError, match=r"several devices \(logits on cpu, the mask on meta\)"):
        gated_mix(v, [v, v], logits, mask=torch.ones(2, 2, dtype=torch.bool, device="meta"))
    with pytest.raises(ValueError, match="there is no rule 'drop'"):
        gated_mix(v, [v, v], logits, rule="drop")
    with pytest.raises(ValueError, match="there is no activation 'relu'; wanted one of softmax, sigmoid, given"):
        gated_mix(v, [v, v], logits, activation="relu")


def test_more_rows_than_the_kernels_can_number_are_refused():
    v = torch.zeros(1, 1, 0).expand(2**15, 2**15, 0)
    with pytest.raises(ValueError, match=r"tokens have 1073741824 rows; wanted fewer than 2\*\*30"):
        gated_mix(v, [v], torch.zeros(1, 1, 1).expand(2**15, 2**15, 1))


def test_experts_in_one_tensor_and_none_in_place_of_one_are_refused():
    v, logits = torch.zeros(2, 7, 5), torch.zeros(2, 7, 2)
    with pytest.raises(ValueError, match=r"experts are one tensor of shape \(2, 2, 7, 5\); wanted a list, a tensor"):
        gated_mix(v, torch.stack([v, v]), logits)
    with pytest.raises(ValueError, match=r"experts\[1\] is of type NoneType; wanted a tensor \[B, N - prefix, D\]"):
        gated_mix(v, [v, None], logits)
