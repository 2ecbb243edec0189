from __future__ import annotations

import itertools
import math

import pytest
import torch
from tove_kernels import blocks, gated_mix
from tove_kernels.residual_mix import triton_launch

F16, B16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# B, N, D, K, entries past K, prefix, dtype, mask, rule, activation
CASES = [
    (2, 1, 17, 1, 0, 0, F32, "none", "zero", "softmax"),
    (1, 63, 512, 2, 1, 1, F32, "sample", "zero", "softmax"),
    (2, 63, 17, 3, 0, 0, F32, "token", "renormalise", "softmax"),
    (1, 197, 768, 5, 2, 1, F32, "token", "zero", "softmax"),
    (1, 577, 1152, 3, 1, 0, F32, "sample", "renormalise", "softmax"),
    (1, 197, 1408, 8, 0, 1, F32, "token", "zero", "sigmoid"),
    (2, 63, 768, 2, 1, 0, F32, "none", "renormalise", "sigmoid"),
    (1, 63, 1152, 5, 0, 0, F32, "sample", "zero", "given"),
    (3, 7, 17, 8, 0, 1, F32, "token", "zero", "given"),
    (1, 197, 768, 3, 1, 1, F16, "token", "renormalise", "softmax"),
    (1, 63, 1408, 5, 0, 0, F16, "none", "zero", "softmax"),
    (1, 197, 512, 8, 1, 0, B16, "sample", "zero", "softmax"),
    (2, 63, 1152, 2, 0, 1, B16, "none", "zero", "sigmoid"),
    (2, 63, 17, 3, 0, 0, F64, "token", "renormalise", "softmax"),
]


@pytest.fixture
def draw(mask_of, device):
    def make(batch, tokens, width, experts, extra=0, prefix=0, dtype=F32, mask="none", seed=0, logits=F32):
        g = torch.Generator().manual_seed(seed)
        v = torch.randn(batch, tokens, width, generator=g).to(dtype)
        es = [torch.randn(batch, tokens - prefix, width, generator=g).to(dtype) for _ in range(experts)]
        gate = (2 * torch.randn(batch, tokens, experts + extra, generator=g)).to(F64 if dtype == F64 else logits)
        on = mask_of(mask, batch, tokens, experts, g)
        move = [x.to(device) for x in (v, gate, *es)]
        return *move, None if on is None else on.to(device)

    return make


@pytest.fixture
def truth(true_weights):
    def mix(v, logits, es, mask, rule, activation, prefix):
        v, logits, *es = (x.detach().cpu().double().requires_grad_() for x in (v, logits, *es))
        mask = None if mask is None else mask.cpu()
        gates = true_weights(logits, len(es), mask, rule, activation)[:, prefix:]
        # Rows that are off may hold anything: they are not part of the definition.
        kept = [torch.where(gates[..., k : k + 1] == 0, 0.0, e) for k, e in enumerate(es)]
        body = v[:, prefix:] + torch.einsum("bnk,bnkd->bnd", gates, torch.stack(kept, 2))
        return torch.cat([v[:, :prefix], body], 1), [v, logits, *es]

    return mix


def both(v, logits, es, mask, rule, activation, prefix, truth, near, seed=9):
    """Compare the mix and every gradient with the truth; return them."""
    given = [x.detach().requires_grad_() for x in (v, logits, *es)]
    got = gated_mix(given[0], given[2:], given[1], mask=mask, rule=rule, activation=activation, prefix=prefix)
    want, inputs = truth(v, logits, es, mask, rule, activation, prefix)
    near(got, want.detach())
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(seed)).to(got.dtype)
    found = torch.autograd.grad(got, given, grad.to(got.device))
    for one, true in zip(found, torch.autograd.grad(want, inputs, grad.double(), allow_unused=True), strict=True):
        near(one, torch.zeros(one.shape, dtype=F64) if true is None else true, gradient=True)
    return got, found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mix_and_gradients_follow_the_definition(case, draw, truth, near, poison):
    *sizes, dtype, mask, rule, activation = case
    v, logits, *es, on = draw(*sizes, dtype=dtype, mask=mask)
    both(v, logits, es, on, rule, activation, sizes[-1], truth, near)


@pytest.mark.parametrize(("width", "experts"), [(1152, 3), (40, 2)])
def test_blocks_of_a_gpu_give_the_same(width, experts, draw, truth, near, poison, monkeypatch):
    monkeypatch.setattr(blocks, "interpreting", lambda *_: False)
    v, logits, *es, on = draw(1, 13, width, experts, 1, 1, mask="token")
    both(v, logits, es, on, "zero", "softmax", 1, truth, near)


def test_types_may_be_mixed(draw, truth, near, poison):
    v, logits, *es, on = draw(2, 13, 33, 3, 1, mask="sample", logits=B16)
    es = [es[0].half(), es[1].bfloat16(), es[2]]
    got, (_, of_logits, *of_es) = both(v, logits, es, on, "renormalise", "softmax", 0, truth, near)
    assert got.dtype == F32 and of_logits.dtype == B16 and [e.dtype for e in of_es] == [F16, B16, F32]


def test_views_are_read_where_they_lie(draw, truth, near, poison, monkeypatch):
    v, logits, *es, _ = draw(3, 14, 33, 3)
    v = v.transpose(0, 1).contiguous().transpose(0, 1)
    views = [torch.cat([es[0][:, :1], es[0]], 1)[:, 1:], torch.stack(es, 2)[:, :, 1], torch.cat(es, 2)[..., 66:]]
    assert not any(x.is_contiguous() for x in (v, *views))
    copied, contiguous = [], torch.Tensor.contiguous
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", lambda self, **k: copied.append(self.shape) or contiguous(self, **k))
        got = gated_mix(v, views, logits)
    assert all(shape == logits.shape for shape in copied)
    near(got, truth(v, logits, es, None, "zero", "softmax", 0)[0].detach())
    both(v, logits, views, None, "zero", "softmax", 0, truth, near)


def test_a_tensor_whose_last_stride_is_not_1_gives_the_same(draw, truth, near, poison):
    v, logits, *es, _ = draw(3, 14, 33, 3)
    v, *es = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (v, *es))
    assert v.stride(-1) != 1
    both(v, logits, es, None, "zero", "softmax", 0, truth, near)


def test_a_gradient_that_is_expanded_is_read_as_it_is(draw, truth):
    v, logits, *es, _ = draw(2, 7, 17, 2)
    for x in (logits, *es):
        x.requires_grad_()
    found = torch.autograd.grad(gated_mix(v, es, logits).sum(), [logits, *es])
    want, inputs = truth(v, logits, es, None, "zero", "softmax", 0)
    for one, true in zip(found, torch.autograd.grad(want.sum(), inputs[1:]), strict=True):
        torch.testing.assert_close(one.double().cpu(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_logits_of_300_stay_finite(rule, draw, truth, near, poison):
    v, logits, *es, on = draw(1, 63, 17, 3, 1, mask="token")
    _, found = both(v, 300 * logits.sign(), es, on, rule, "softmax", 0, truth, near)
    assert all(one.isfinite().all() for one in found)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("mask", ["sample", "token"])
def test_what_a_masked_row_holds_reaches_nothing(bad, mask, draw, truth, near, poison):
    v, logits, *es, on = draw(3, 13, 17, 3, mask=mask)
    off = ~(on[:, None] if on.dim() == 2 else on).expand(3, 13, 3)
    assert off.any()
    for k, e in enumerate(es):
        e[off[..., k]] = bad
    _, found = both(v, logits, es, on, "zero", "softmax", 0, truth, near)
    for k, one in enumerate(found[2:]):
        assert one[off[..., k]].eq(0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "given"])
@pytest.mark.parametrize("extra", [0, 1])
def test_a_row_with_every_expert_off_is_the_token_to_the_last_bit(activation, extra, draw, poison):
    if activation == "given" and extra:
        extra = 0
    v, logits, *es, _ = draw(2, 7, 17, 2, extra)
    v[0, 0] = -0.0
    es[0][:] = math.nan
    off = torch.zeros(2, 2, dtype=torch.bool, device=v.device)
    for rule in ("zero", "renormalise"):
        got = gated_mix(v, es, logits, mask=off, rule=rule, activation=activation)
        assert torch.equal(got.view(torch.int32), v.view(torch.int32))


def test_prefix_rows_pass_to_the_last_bit_and_their_logits_count_for_nothing(draw, poison):
    v, logits, *es, _ = draw(2, 7, 17, 2, prefix=3)
    logits[:, :3] = math.nan
    logits.requires_grad_()
    got = gated_mix(v, es, logits, prefix=3)
    assert torch.equal(got[:, :3], v[:, :3]) and got.isfinite().all()
    got.sum().backward()
    assert logits.grad[:, :3].eq(0).all() and logits.grad[:, 3:].isfinite().all()


@pytest.mark.parametrize(
    ("batch", "tokens", "width", "prefix"), [(0, 7, 17, 0), (2, 0, 17, 0), (2, 3, 17, 3), (2, 3, 0, 0)]
)
def test_empty_tensors_give_empty_gradients_or_zeros(batch, tokens, width, prefix, draw, poison):
    v, logits, *es, _ = draw(batch, tokens, width, 2, prefix=prefix)
    given = [x.requires_grad_() for x in (v, logits, *es)]
    got = gated_mix(v, es, logits, prefix=prefix)
    assert torch.equal(got, v)
    for x, one in zip(given, torch.autograd.grad(got.sum(), given), strict=True):
        assert one.shape == x.shape and torch.equal(one, torch.ones_like(v) if x is v else torch.zeros_like(x))


def test_only_the_gradients_that_are_wanted_come(draw, truth):
    for wanted in itertools.product([False, True], repeat=4):
        if not any(wanted):
            continue
        v, logits, *es, _ = draw(2, 3, 17, 2)
        given = [x.requires_grad_(w) for x, w in zip((v, logits, *es), wanted, strict=True)]
        gated_mix(v, es, logits).square().sum().backward()
        want, inputs = truth(v, logits, es, None, "zero", "softmax", 0)
        trues = torch.autograd.grad(want.square().sum(), inputs)
        for x, true in zip(given, trues, strict=True):
            assert (x.grad is None) == (not x.requires_grad)
            if x.grad is not None:
                torch.testing.assert_close(x.grad.double().cpu(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "sample", "token"])
def test_gradients_agree_with_finite_differences(mask, draw):
    v, logits, *es, on = draw(2, 3, 5, 2, 1, 1, F64, mask)
    given = [x.requires_grad_() for x in (v, logits, *es)]
    for rule in ("zero", "renormalise") if mask != "none" else ("zero",):
        assert torch.autograd.gradcheck(
            lambda v, logits, *es, r=rule: gated_mix(v, es, logits, mask=on, rule=r, prefix=1), given, fast_mode=True
        )


def test_two_runs_agree_to_the_last_bit(draw):
    v, logits, *es, on = draw(2, 63, 96, 3, mask="token")
    grad = torch.randn_like(v)
    runs = [triton_launch.backward(grad, es, logits, on, "zero", "softmax", 0, (True, True)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
