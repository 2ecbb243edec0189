"""The derivative that the plain forms write out holds under whatever PyTorch does with one."""

from __future__ import annotations

import pytest
import torch
from tove_kernels import gated_activation_mix_and_weights, gated_mix
from tove_kernels.gating.weighted_sum import recorded, weighted_sum


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv("TOVE_KERNELS", "reference")


def normal(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def drawn(prefix=0):
    given = [normal(2, 5, 3), *(normal(2, 5 - prefix, 1, seed=k) for k in range(2))]
    return [x.requires_grad_() for x in (*given, *(normal(2, 5 - prefix, 3, seed=2 + k) for k in range(2)))]


def definition(base, gates, terms, prefix):
    body = sum(gate * term for gate, term in zip(gates, terms, strict=True))
    return body if base is None else base + torch.nn.functional.pad(body, (0, 0, prefix, 0))


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("based", [False, True])
def test_the_sum_and_its_gradients_are_those_of_the_definition(record, prefix, based):
    base, *pairs = drawn(prefix)
    given = [base, *pairs] if based else pairs
    start = base if based else None
    got = weighted_sum(start, pairs[:2], iter(pairs[2:]), prefix if based else 0, record=record)
    want = definition(start, pairs[:2], pairs[2:], prefix)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)
    grad = normal(*want.shape, seed=9)
    if record:
        found = torch.autograd.grad(got, given, grad)
        for one, true in zip(found, torch.autograd.grad(want, given, grad), strict=True):
            torch.testing.assert_close(one, true, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("prefix", [0, 2])
def test_it_is_differentiable_forward_backward_and_twice(prefix):
    def call(base, *pairs):
        return weighted_sum(base, pairs[:2], pairs[2:], prefix, record=True)

    assert torch.autograd.gradcheck(call, drawn(prefix), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, drawn(prefix))


def test_gradients_of_some_of_what_was_given_are_those_of_the_definition():
    base, *pairs = drawn()
    given, fixed = [pairs[1], pairs[2]], [pairs[0].detach(), pairs[3].detach()]
    gates, terms = [fixed[0], pairs[1]], [pairs[2], fixed[1]]
    found = torch.autograd.grad(weighted_sum(base.detach(), gates, terms, record=True).square().sum(), given)
    want = torch.autograd.grad(definition(base.detach(), gates, terms, 0).square().sum(), given)
    torch.testing.assert_close(found, want)


def test_nothing_is_recorded_without_a_gradient_or_while_a_program_is_traced():
    leaf = torch.zeros(1, requires_grad=True)
    assert recorded([leaf.detach(), leaf]) and not recorded([leaf.detach()])
    with torch.no_grad():
        assert not recorded([leaf])
    seen = []

    def traced(x):
        seen.append(recorded([x]))
        return 2 * x

    torch._dynamo.reset()
    torch.compile(traced, backend="eager")(leaf)
    assert seen == [False]


def mixed(v, logits):
    """Both operators of tensors that follow from the arguments."""
    mix, weights = gated_activation_mix_and_weights([v.sin(), v.cos()], [v[0, 0], v[0, 1]], logits)
    return gated_mix(v, [mix, v.exp()], logits, prefix=0).sum() + weights.square().sum()


def test_hessians_and_batches_of_gradients_come_through_function_transforms():
    v, logits = normal(2, 3, 2), normal(2, 3, 2, seed=1)
    want = torch.autograd.functional.hessian(lambda x: mixed(v, x), logits)
    torch.testing.assert_close(torch.func.hessian(lambda x: mixed(v, x))(logits), want)
    many = torch.stack([logits, 2 * logits, -logits])
    each = torch.stack([torch.func.grad(mixed, 1)(v, one) for one in many])
    torch.testing.assert_close(torch.vmap(torch.func.grad(mixed, 1), (None, 0))(v, many), each)
    _, pushed = torch.func.jvp(lambda x: mixed(v, x), (logits,), (logits.cos(),))
    torch.testing.assert_close(pushed, (torch.func.grad(mixed, 1)(v, logits) * logits.cos()).sum())
