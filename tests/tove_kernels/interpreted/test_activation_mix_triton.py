from __future__ import annotations

import math

import pytest
import torch
from tove_kernels import blocks, gated_activation_mix, gated_activation_mix_and_weights
from tove_kernels.activation_mix import triton_launch

F16, B16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# B, N, H, K, entries past K, dtype, bias, mask, rule, activation
CASES = [
    (2, 1, 17, 1, 0, F32, True, "none", "zero", "softmax"),
    (1, 63, 512, 2, 1, F32, True, "sample", "zero", "softmax"),
    (2, 63, 17, 3, 0, F32, False, "token", "renormalise", "softmax"),
    (1, 197, 768, 5, 2, F32, True, "token", "zero", "softmax"),
    (1, 577, 17, 2, 1, F32, True, "sample", "renormalise", "softmax"),
    (1, 7, 1408, 8, 0, F32, True, "token", "zero", "sigmoid"),
    (1, 63, 1152, 3, 0, F32, True, "sample", "zero", "given"),
    (1, 197, 768, 2, 1, F16, True, "token", "renormalise", "softmax"),
    (1, 63, 512, 5, 0, F16, False, "none", "zero", "softmax"),
    (1, 197, 512, 8, 1, B16, True, "sample", "zero", "softmax"),
    (2, 63, 17, 3, 0, F64, True, "token", "renormalise", "softmax"),
]


@pytest.fixture
def draw(mask_of, device):
    def make(batch, tokens, width, experts, extra=0, dtype=F32, bias=True, mask="none"):
        g = torch.Generator().manual_seed(1)
        hidden = [2 * torch.randn(batch, tokens, width, generator=g) for _ in range(experts)]
        shifts = [torch.randn(width, generator=g).to(F64 if dtype == F64 else F32) for _ in range(experts * bias)]
        logits = (2 * torch.randn(batch, tokens, experts + extra, generator=g)).to(F64 if dtype == F64 else F32)
        on = mask_of(mask, batch, tokens, experts, g)
        hidden, shifts = [h.to(device, dtype) for h in hidden], [b.to(device) for b in shifts]
        return hidden, shifts, logits.to(device), None if on is None else on.to(device)

    return make


@pytest.fixture
def truth(true_weights):
    def mix(hidden, bias, logits, mask, rule, activation):
        count = len(hidden)
        inputs = [x.detach().cpu().double().requires_grad_() for x in (logits, *hidden, *bias)]
        gates = true_weights(inputs[0], count, None if mask is None else mask.cpu(), rule, activation)
        total = 0
        for k, h in enumerate(inputs[1 : 1 + count]):
            x = h + inputs[1 + count + k] if bias else h
            x = torch.where(gates[..., k : k + 1] == 0, 0.0, x)
            total = total + gates[..., k : k + 1] * x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        return total, gates, inputs

    return mix


def both(hidden, bias, logits, mask, rule, activation, truth, near):
    """Compare mix, weights and every gradient, also through the weights, with the truth; return them."""
    given, count = [x.detach().requires_grad_() for x in (logits, *hidden, *bias)], len(hidden)
    got = gated_activation_mix_and_weights(
        given[1 : 1 + count], given[1 + count :] or None, given[0], mask=mask, rule=rule, activation=activation
    )
    *want, inputs = truth(hidden, bias, logits, mask, rule, activation)
    g = torch.Generator().manual_seed(2)
    grads = [torch.randn(x.shape, generator=g).to(x.dtype) for x in got]
    for one, true in zip(got, want, strict=True):
        near(one, true.detach())
    found = torch.autograd.grad(got, given, [x.to(logits.device) for x in grads])
    trues = torch.autograd.grad(want, inputs, [x.double() for x in grads])
    for one, true in zip(found, trues, strict=True):
        near(one, true, gradient=True)
    return got, found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mix_weights_and_gradients_follow_the_definition(case, draw, truth, near, poison):
    *sizes, dtype, bias, mask, rule, activation = case
    hidden, shifts, logits, on = draw(*sizes, dtype=dtype, bias=bias, mask=mask)
    both(hidden, shifts, logits, on, rule, activation, truth, near)


@pytest.mark.parametrize(("width", "experts"), [(1152, 2), (40, 3)])
def test_blocks_of_a_gpu_give_the_same(width, experts, draw, truth, near, poison, monkeypatch):
    monkeypatch.setattr(blocks, "interpreting", lambda *_: False)
    monkeypatch.setattr(blocks, "PROGRAMS", 7)
    hidden, bias, logits, on = draw(1, 27, width, experts, 1, mask="token")
    both(hidden, bias, logits, on, "zero", "softmax", truth, near)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_gelu_is_that_of_erf_from_tail_to_tail(device):
    x = torch.linspace(-12, 12, 200_000, device=device)
    x[:8] = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 30.0, -30.0, 1e18, -1e18], device=device)
    h = x.reshape(1, 200, 1000).requires_grad_()
    got = gated_activation_mix([h], None, torch.ones(1, 200, 1, device=device), activation="given")
    (slope,) = torch.autograd.grad(got.sum(), h)
    wide = x.double().requires_grad_()
    want = torch.nn.functional.gelu(wide)
    (true,) = torch.autograd.grad(want.sum(), wide)
    inner = x.abs() < 20
    unit = 1e-7 * x.double().abs().clamp(min=1)
    # A GPU's own power of two is off by up to 2**-22.5 of it, numpy's by half of float32's last bit.
    most = 1.5 if device == "cpu" else 2.5
    assert ((got.flatten() - want).abs() / unit)[inner].max() < most
    assert ((slope.flatten() - true).abs() / unit)[inner].max() < 2 * most
    assert torch.equal(got.flatten()[~inner].double(), want[~inner]) and slope.isfinite().all()


def test_types_may_be_mixed(draw, truth, near, poison):
    hidden, bias, logits, on = draw(2, 13, 33, 3, 1, mask="sample")
    hidden, bias = [hidden[0].bfloat16(), hidden[1].half(), hidden[2]], [bias[0], bias[1].half(), bias[2].bfloat16()]
    got, found = both(hidden, bias, logits.bfloat16(), on, "renormalise", "softmax", truth, near)
    assert got[0].dtype == B16 and got[1].dtype == F32
    assert [one.dtype for one in found] == [B16, B16, F16, F32, F32, F16, B16]


def test_views_give_the_same(draw, truth, near, poison):
    hidden, bias, logits, on = draw(2, 13, 33, 3, mask="token")
    views = [
        torch.cat([hidden[0][:, :1], hidden[0]], 1)[:, 1:],
        hidden[1].transpose(1, 2).contiguous().transpose(1, 2),
        hidden[2].transpose(0, 1).contiguous().transpose(0, 1),
    ]
    bias[0] = bias[0].repeat_interleave(2)[::2]
    on = on.transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(x.is_contiguous() for x in (*views, bias[0], on))
    both(views, bias, logits, on, "zero", "softmax", truth, near)


def test_views_without_a_bias_are_read_where_they_lie(draw, truth, near, poison, monkeypatch):
    hidden, _, logits, _ = draw(2, 13, 33, 3, bias=False)
    views = [torch.cat([one[:, :1], one], 1)[:, 1:] for one in hidden]
    copied, contiguous = [], torch.Tensor.contiguous
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", lambda self, **k: copied.append(self.shape) or contiguous(self, **k))
        got = gated_activation_mix(views, None, logits)
    assert all(shape == logits.shape for shape in copied)
    near(got, truth(hidden, [], logits, None, "zero", "softmax")[0].detach())


def test_weights_that_are_strided_give_the_same_gradients(draw, poison):
    hidden, bias, logits, _ = draw(2, 13, 33, 3)
    grad, weights = torch.randn_like(hidden[0]), torch.rand_like(logits)
    strided = weights.transpose(1, 2).contiguous().transpose(1, 2)
    gate = (None, "zero", "softmax", (True, True, True))
    want, got = (triton_launch.backward(grad, None, given, hidden, bias, logits, *gate) for given in (weights, strided))
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_logits_of_300_stay_finite(rule, draw, truth, near, poison):
    hidden, bias, logits, on = draw(1, 63, 17, 3, 1, mask="token")
    _, found = both(hidden, bias, 300 * logits.sign(), on, rule, "softmax", truth, near)
    assert all(one.isfinite().all() for one in found)


@pytest.mark.parametrize("mask", ["sample", "token"])
def test_what_a_masked_row_holds_reaches_nothing(mask, draw, truth, near, poison):
    hidden, bias, logits, on = draw(3, 13, 17, 3, mask=mask)
    off = ~(on[:, None] if on.dim() == 2 else on).expand(3, 13, 3)
    assert off.any()
    for k, h in enumerate(hidden):
        h[off[..., k]] = math.nan if k else math.inf
    (_, weights), found = both(hidden, bias, logits, on, "zero", "softmax", truth, near)
    assert weights[off].eq(0).all()
    for k, one in enumerate(found[1:4]):
        assert one[off[..., k]].eq(0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "given"])
def test_a_row_with_every_expert_off_is_exactly_zero(activation, draw, poison):
    hidden, bias, logits, _ = draw(2, 7, 17, 2)
    bias[0][:] = math.nan
    off = torch.zeros(2, 2, dtype=torch.bool, device=logits.device)
    for rule in ("zero", "renormalise"):
        got = gated_activation_mix(hidden, bias, logits, mask=off, rule=rule, activation=activation)
        assert torch.equal(got, torch.zeros_like(got))


@pytest.mark.parametrize(("batch", "tokens", "width"), [(0, 7, 17), (2, 0, 17), (2, 3, 0)])
def test_empty_tensors_give_zero_gradients(batch, tokens, width, draw, poison):
    hidden, bias, logits, _ = draw(batch, tokens, width, 2)
    given = [x.requires_grad_() for x in (logits, *hidden, *bias)]
    got = gated_activation_mix(hidden, bias, logits)
    assert got.shape == (batch, tokens, width)
    for x, one in zip(given, torch.autograd.grad(got.sum(), given), strict=True):
        assert torch.equal(one, torch.zeros_like(x))


@pytest.mark.parametrize("wanted", ["logits", "hidden", "bias", "one hidden", "one bias", "weights alone"])
def test_only_the_gradients_that_are_wanted_come(wanted, draw, truth):
    hidden, bias, logits, _ = draw(2, 7, 17, 2)
    chosen = {"logits": [0], "hidden": [1, 2], "bias": [3, 4], "one hidden": [2], "one bias": [3], "weights alone": [0]}
    given = [x.requires_grad_(i in chosen[wanted]) for i, x in enumerate((logits, *hidden, *bias))]
    got = gated_activation_mix_and_weights(hidden, bias, logits)
    *want, inputs = truth(hidden, bias, logits, None, "zero", "softmax")
    pick = 1 if wanted == "weights alone" else 0
    got[pick].square().sum().backward()
    trues = torch.autograd.grad(want[pick].square().sum(), inputs, allow_unused=True)
    for i, (x, true) in enumerate(zip(given, trues, strict=True)):
        assert (x.grad is None) == (i not in chosen[wanted])
        if x.grad is not None:
            torch.testing.assert_close(x.grad.double().cpu(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "sample", "token"])
def test_gradients_agree_with_finite_differences(mask, draw):
    hidden, bias, logits, on = draw(2, 3, 5, 2, 1, F64, mask=mask)
    given = [x.requires_grad_() for x in (logits, *hidden, *bias)]

    def mix(logits, *rest, rule="renormalise" if mask == "sample" else "zero"):
        return gated_activation_mix_and_weights(rest[:2], rest[2:], logits, mask=on, rule=rule)

    assert torch.autograd.gradcheck(mix, given, fast_mode=True)


def test_two_runs_agree_to_the_last_bit(draw):
    hidden, bias, logits, on = draw(2, 63, 96, 3, mask="token")
    grad, weights = torch.randn_like(hidden[0]), torch.rand_like(logits)
    runs = [
        triton_launch.backward(grad, None, weights, hidden, bias, logits, on, "zero", "softmax", (True, True, True))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
