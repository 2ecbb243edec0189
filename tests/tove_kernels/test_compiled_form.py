"""TOVE_KERNELS=compiled: the plain forms through torch.compile, against what they compute uncompiled."""

from __future__ import annotations

import shutil

import pytest
import torch
from tove_kernels import align_tokens, gated_activation_mix_and_weights, gated_mix

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile for a CPU needs g++")


@pytest.fixture
def forms(monkeypatch):
    """Compute something in both forms."""

    def both(compute):
        found = []
        for wish in ("reference", "compiled"):
            monkeypatch.setenv("TOVE_KERNELS", wish)
            found.append(compute())
        return found

    torch.compiler.reset()
    yield both
    torch.compiler.reset()


def tensors(count, *shape, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(count)]


def graphs():
    """Count what has been compiled: a form that runs as it is leaves nothing."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_the_mix_and_its_gradients_are_those_of_the_plain_form_and_really_compiled(forms):
    v, *experts = tensors(3, 2, 7, 19)
    body = [one[:, 1:] for one in experts]
    (logits,), (grad,) = tensors(1, 2, 7, 3, seed=1), tensors(1, 2, 7, 19, seed=2)
    mask = torch.tensor([[True, False], [False, False]])

    def compute():
        out = gated_mix(v, body, logits, mask=mask, rule="renormalise", prefix=1)
        return [out, *torch.autograd.grad(out, [v, logits, *experts], grad)]

    before = graphs()
    plain, compiled = forms(compute)
    assert graphs() == before + 1
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
    assert torch.equal(compiled[0][1], v[1]), "a sample whose experts are all off passes to the last bit"


def test_what_is_masked_reaches_nothing_and_zeros_keep_their_sign(forms):
    v, first, second = (one.detach() for one in tensors(3, 1, 5, 8, dtype=torch.float32))
    v[0, 0, 0], first[:] = -0.0, float("nan")
    mask = torch.tensor([[False, True]])
    logits = torch.zeros(1, 5, 2)
    _, compiled = forms(lambda: gated_mix(v, [first, second], logits, mask=mask))
    torch.testing.assert_close(compiled, v + second)
    _, off = forms(lambda: gated_mix(v, [first, second], logits, mask=torch.zeros(1, 2, dtype=torch.bool)))
    assert torch.equal(off, v) and torch.signbit(off[0, 0, 0])


def test_the_activation_mix_its_weights_and_gradients_in_mixed_types(forms):
    hidden = tensors(3, 2, 5, 17, dtype=torch.bfloat16)
    bias = tensors(3, 17, seed=1, dtype=torch.float32)
    (logits,) = tensors(1, 2, 5, 4, seed=2, dtype=torch.float32)

    def compute():
        mix, weights = gated_activation_mix_and_weights(hidden, bias, logits)
        loss = mix.float().square().sum() + weights.square().sum()
        return [mix, weights, *torch.autograd.grad(loss, [logits, *bias, *hidden])]

    plain, compiled = forms(compute)
    for one, other in zip(plain, compiled, strict=True):
        assert other.dtype == one.dtype
        torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-2)


def test_alignment_is_the_same(forms):
    (maps,) = tensors(1, 2, 6, 9, 7, dtype=torch.float32)
    maps = maps.detach().contiguous(memory_format=torch.channels_last)
    plain, compiled = forms(lambda: align_tokens(maps, (4, 5), norm="position", fold=2))
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)


def test_a_second_derivative_is_refused_and_not_left_out(forms, monkeypatch):
    monkeypatch.setenv("TOVE_KERNELS", "compiled")
    v, expert = tensors(2, 1, 3, 4)
    (logits,) = tensors(1, 1, 3, 1)
    (first,) = torch.autograd.grad(gated_mix(v, [expert], logits).square().sum(), [logits], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first.sum(), [logits])


def test_inside_a_program_that_is_compiled_anyway_there_is_no_graph_of_its_own(monkeypatch):
    monkeypatch.setenv("TOVE_KERNELS", "compiled")
    v, expert = tensors(2, 1, 3, 4)
    logits = torch.zeros(1, 3, 1)
    torch.compiler.reset()
    explained = torch._dynamo.explain(lambda: gated_mix(v, [expert], logits) + 1)()
    assert explained.graph_count == 1 and explained.graph_break_count == 0
    assert any("add" in str(op) for op in explained.ops_per_graph[0])
