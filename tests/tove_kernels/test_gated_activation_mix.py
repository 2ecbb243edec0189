from __future__ import annotations

import math

import pytest
import torch
from tove_kernels import gate_weights, gated_activation_mix, gated_activation_mix_and_weights
from tove_kernels.activation_mix.reference import gated_activation_mix_backward

SIZES = [(1, 17, 1, 0), (63, 96, 2, 1), (7, 17, 3, 0), (197, 17, 5, 2), (63, 17, 8, 1)]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def reference(hidden, bias, logits, mask=None, rule="zero"):
    """The mix by einsum over stacked, activated tokens, in float64."""
    shifted = torch.stack(hidden, 2).double()
    if bias is not None:
        shifted = shifted + torch.stack(bias).double()
    logits, experts = logits.double(), len(hidden)
    on = torch.ones(*logits.shape[:2], experts, dtype=torch.bool)
    if mask is not None:
        on = (mask[:, None] if mask.dim() == 2 else mask).expand_as(on)
    extra = torch.ones(*logits.shape[:2], logits.shape[-1] - experts, dtype=torch.bool)
    counted = torch.cat([on, extra], -1) if rule == "renormalise" else torch.ones_like(logits, dtype=torch.bool)
    top = torch.where(counted, logits, -math.inf).amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    powers = torch.where(counted, logits - top, -math.inf).exp()
    weights = counted.sum(-1, keepdim=True) * powers / powers.sum(-1, keepdim=True).clamp(min=1e-300)
    weights = weights[..., :experts] * on
    return torch.einsum("bnk,bnkh->bnh", weights, gelu(shifted))


def draw(tokens, width, experts, extra=0, *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    hidden = [normal(2, tokens, width) for _ in range(experts)]
    bias = [normal(width) for _ in range(experts)]
    masks = {
        "all on": None,
        "per sample": torch.rand(2, experts, generator=generator) < 0.6,
        "per token": torch.rand(2, tokens, experts, generator=generator) < 0.6,
    }
    return hidden, bias, 2 * normal(2, tokens, experts + extra), masks


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("which", ["all on", "per sample", "per token"])
@pytest.mark.parametrize("size", SIZES)
def test_the_mix_follows_the_definition(size, which, rule):
    hidden, bias, logits, masks = draw(*size)
    got = gated_activation_mix(hidden, bias, logits, mask=masks[which], rule=rule)
    torch.testing.assert_close(got, reference(hidden, bias, logits, masks[which], rule), rtol=1e-11, atol=1e-11)


def test_bias_may_be_left_out():
    hidden, _, logits, _ = draw(63, 17, 3)
    torch.testing.assert_close(gated_activation_mix(hidden, None, logits), reference(hidden, None, logits))


def test_a_sigmoid_gate_weighs_each_expert_by_itself():
    hidden, bias, logits, _ = draw(63, 17, 3, 1)
    want = sum(2 / (1 + torch.exp(-logits[..., k : k + 1])) * gelu(hidden[k] + bias[k]) for k in range(3))
    torch.testing.assert_close(gated_activation_mix(hidden, bias, logits, activation="sigmoid"), want)


def test_equal_gates_give_a_plain_sum():
    hidden, bias, logits, _ = draw(63, 17, 5)
    want = sum(gelu(h + b) for h, b in zip(hidden, bias, strict=True))
    torch.testing.assert_close(gated_activation_mix(hidden, bias, torch.full_like(logits, 0.3)), want)


def test_mixing_before_the_shared_linear_equals_projecting_each_expert():
    hidden, bias, logits, _ = draw(63, 17, 3)
    second = torch.randn(5, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = gate_weights(logits, 3)
    each = sum(weights[..., k : k + 1] * (gelu(hidden[k] + bias[k]) @ second.T) for k in range(3))
    torch.testing.assert_close(gated_activation_mix(hidden, bias, logits) @ second.T, each)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("extra", [0, 1])
def test_all_off_gives_exact_zeros(rule, activation, extra):
    hidden, bias, logits, _ = draw(7, 17, 3, extra)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mix = gated_activation_mix(hidden, bias, 300 * logits, mask=mask, rule=rule, activation=activation)
    assert torch.equal(mix, torch.zeros_like(mix))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("shape", ["per sample", "per token"])
def test_bad_hidden_values_of_an_expert_that_is_off_reach_neither_the_mix_nor_gradients(bad, rule, shape):
    hidden, bias, logits, _ = draw(7, 17, 3)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    if shape == "per token":
        mask = mask[:, None].expand(2, 7, 3)
    clean = gated_activation_mix(hidden, bias, logits, mask=mask, rule=rule)
    hidden[1][0] = bad
    given = [*hidden, *bias, logits]
    for tensor in given:
        tensor.requires_grad_()
    mix = gated_activation_mix(hidden, bias, logits, mask=mask, rule=rule)
    assert torch.equal(mix, clean)
    mix.square().sum().backward()
    for tensor in given:
        assert tensor.grad.isfinite().all()
    assert hidden[1].grad[0].abs().max() == 0
    assert hidden[1].grad[1].abs().max() > 0


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_extreme_logits_stay_finite_forward_and_backward(rule):
    hidden, bias, logits, masks = draw(63, 17, 3, dtype=torch.float32)
    logits = 300 * logits.sign()
    for tensor in (*hidden, logits):
        tensor.requires_grad_()
    mix = gated_activation_mix(hidden, bias, logits, mask=masks["per token"], rule=rule)
    want = reference(hidden, bias, logits, masks["per token"], rule)
    torch.testing.assert_close(mix.double(), want, rtol=1e-5, atol=1e-5)
    mix.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (*hidden, logits))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_lower_precision_comes_back_in_its_own_type_and_near_the_truth(dtype, tolerance, rule):
    hidden, bias, logits, masks = draw(63, 96, 8, 1, dtype=dtype)
    got = gated_activation_mix(hidden, bias, logits, mask=masks["per sample"], rule=rule)
    want = reference(hidden, bias, logits, masks["per sample"], rule)
    assert got.dtype == dtype
    assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("which", ["all on", "per sample", "per token"])
def test_gradients_agree_with_finite_differences(which, rule, activation):
    hidden, bias, logits, masks = draw(3, 3, 2, 1)
    given = [tensor.requires_grad_() for tensor in (*hidden, *bias, logits)]

    def mix(*tensors):
        return gated_activation_mix(
            tensors[:2], tensors[2:4], tensors[4], mask=masks[which], rule=rule, activation=activation
        )

    assert torch.autograd.gradcheck(mix, given)


def test_views_that_are_not_contiguous_give_the_same():
    hidden, bias, logits, _ = draw(63, 17, 3)
    strided = [h.transpose(1, 2).contiguous().transpose(1, 2) for h in hidden]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(gated_activation_mix(strided, bias, logits), gated_activation_mix(hidden, bias, logits))


@pytest.mark.parametrize(
    ("hidden", "bias", "logits", "message"),
    [
        ([], None, (2, 7, 3), "no hidden tensors"),
        ([(2, 7, 5), (2, 7, 4)], None, (2, 7, 2), r"wanted one shape \[B, N, H\]"),
        ([(7, 5)], None, (7, 1), r"wanted one shape \[B, N, H\]"),
        ([(2, 7, 5)] * 2, [(5,)], (2, 7, 2), "1 biases were given for 2 experts"),
        ([(2, 7, 5)] * 2, [(5,), (1,)], (2, 7, 2), r"bias\[1\] has shape \(1,\); wanted \[H\] = \[5\]"),
        ([(2, 7, 5)] * 2, None, (2, 7, 1), "logits have shape"),
        ([(2, 7, 5)] * 2, None, (1, 7, 2), "logits have shape"),
        ([(2, 7, 5)] * 2, None, (2, 6, 2), "logits have shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(hidden, bias, logits, message):
    biases = None if bias is None else [torch.zeros(shape) for shape in bias]
    with pytest.raises(ValueError, match=message):
        gated_activation_mix([torch.zeros(shape) for shape in hidden], biases, torch.zeros(logits))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "given"])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("which", ["all on", "per sample", "per token"])
@pytest.mark.parametrize("biased", [False, True])
def test_written_out_gradients_agree_with_autograd(which, rule, activation, biased):
    hidden, bias, logits, masks = draw(7, 5, 2, 0 if activation == "given" else 1)
    bias = bias if biased else []
    given = [tensor.requires_grad_() for tensor in (logits, *hidden, *bias)]
    gate = (masks[which], rule, activation)
    mix, weights = gated_activation_mix_and_weights(
        hidden, bias or None, logits, mask=gate[0], rule=rule, activation=activation
    )
    grads = [torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(6)) for x in (mix, weights)]
    want = torch.autograd.grad([mix, weights], given, grads)
    logits_, biases, *rest = gated_activation_mix_backward(
        *grads, weights.detach(), hidden, bias, logits, *gate, (True, biased, True)
    )
    for one, true in zip([logits_, *rest, *biases], want, strict=True):
        torch.testing.assert_close(one, true, rtol=1e-11, atol=1e-11)
    only = gated_activation_mix_backward(
        grads[0], None, weights.detach(), hidden, bias, logits, *gate, (False, False, True)
    )
    assert only[0].numel() == only[1].numel() == 0
    assert torch.equal(only[2], rest[0])


def test_the_weights_that_come_with_the_mix_are_those_of_gate_weights():
    hidden, bias, logits, masks = draw(7, 5, 3, 2)
    options = {"mask": masks["per token"], "rule": "renormalise"}
    mix, weights = gated_activation_mix_and_weights(hidden, bias, logits, **options)
    assert torch.equal(weights, gate_weights(logits, 3, **options))
    assert torch.equal(mix, gated_activation_mix(hidden, bias, logits, **options))
    given = gated_activation_mix(hidden, bias, weights, activation="given", mask=masks["per token"])
    torch.testing.assert_close(given, mix, rtol=1e-13, atol=1e-13)


def test_devices_and_types_that_do_not_fit_are_refused():
    hidden, logits = [torch.zeros(2, 7, 5)] * 2, torch.zeros(2, 7, 2)
    with pytest.raises(ValueError, match=r"several devices \(hidden on cpu, bias on cpu and meta, logits on cpu\)"):
        gated_activation_mix(hidden, [torch.zeros(5), torch.zeros(5, device="meta")], logits)
    with pytest.raises(ValueError, match=r"hidden\[0\] is torch.int64; wanted a floating-point type"):
        gated_activation_mix([hidden[0].long(), hidden[1]], None, logits)
    with pytest.raises(ValueError, match=r"bias\[0\] is of type NoneType; wanted a tensor \[H\]"):
        gated_activation_mix(hidden, [None, None], logits)
    with pytest.raises(ValueError, match=r"biases are one tensor of shape \(2, 5\); wanted a list"):
        gated_activation_mix(hidden, torch.zeros(2, 5), logits)
    with pytest.raises(ValueError, match=r"hidden tensors are one tensor of shape"):
        gated_activation_mix(torch.stack(hidden), None, logits)
    with pytest.raises(ValueError, match=r"hidden\[0\] is no tensor"):
        gated_activation_mix([None, hidden[0]], None, logits)
