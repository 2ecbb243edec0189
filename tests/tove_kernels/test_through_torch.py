"""Both mixing operators through what PyTorch does to programs; in triton's interpreter too, see test_interpreted.py."""

from __future__ import annotations

import os

import pytest
import torch
from torch import library, nn
from torch.nn import functional as F
from tove_kernels import gated_activation_mix_and_weights, gated_mix

DEVICE = os.environ.get("TOVE_TEST_DEVICE", "cpu")
TRITON = os.environ.get("TRITON_INTERPRET") == "1" or DEVICE == "cuda"


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setenv("TOVE_KERNELS", "triton" if TRITON else "reference")


class Fusion(nn.Module):
    """Both operators in a row, with parameters before, between and after them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(5, 18) for _ in range(3))
        self.gate, self.second = nn.Linear(18, 4), nn.Linear(18, 18, bias=False)

    def forward(self, v, mask=None):
        u = v[:, 1:, :5]
        hidden = [F.linear(u, one.weight) for one in self.first]
        logits = self.gate(v)
        mix, weights = gated_activation_mix_and_weights(
            hidden, [one.bias for one in self.first], logits[:, 1:], mask=mask, rule="renormalise"
        )
        return gated_mix(v, [self.second(mix), hidden[0]], logits, prefix=1), weights


@pytest.fixture
def fusion():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = Fusion(), torch.randn(2, 7, 18), torch.tensor([[True, False, True], [True, True, False]])
    return tuple(one.to(DEVICE) for one in made)


def learn(module, *inputs):
    """Return the output and the gradients of parameters and input."""
    v = inputs[0].detach().requires_grad_()
    module.zero_grad()
    out, weights = module(v, *inputs[1:])
    (out.square().sum() + weights.square().sum()).backward()
    named = {
        name.removeprefix("module.").removeprefix("_orig_mod."): p.grad.clone() for name, p in module.named_parameters()
    }
    return {"out": out.detach(), "weights": weights.detach(), "v": v.grad} | named


def same(got, want, **tolerance):
    assert got.keys() == want.keys()
    for name, one in want.items():
        torch.testing.assert_close(got[name], one, msg=lambda text, n=name: f"{n}: {text}", **tolerance)


def test_the_chosen_form_runs_and_gives_what_plain_pytorch_does(fusion, monkeypatch):
    got = learn(*fusion)
    monkeypatch.setenv("TOVE_KERNELS", "reference")
    # Gradients of parameters are sums over all tokens, up to 79 here, and a GPU's exp is not a CPU's to the last place.
    same(got, learn(*fusion), rtol=1e-5, atol=1e-4)
    # The fp64 path and autograd's own derivative of the reference.
    exact = learn(fusion[0].double(), fusion[1].double(), fusion[2])
    same(got, {k: v.float() for k, v in exact.items()}, rtol=1e-5, atol=1e-4)


def test_compiled_without_a_graph_break(fusion):
    torch._dynamo.reset()
    module, *inputs = fusion
    same(learn(torch.compile(module, fullgraph=True, backend="aot_eager"), *inputs), learn(*fusion))


def test_compiled_for_changing_sizes(fusion):
    _, v, _ = fusion

    def mix(v, logits):
        return gated_mix(v, [v[:, 1:], 2 * v[:, :-1]], logits, prefix=1)

    torch._dynamo.reset()
    compiled = torch.compile(mix, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for count in (7, 5, 6):
            given = v[:, :count], v[:, :count, :3]
            torch.testing.assert_close(compiled(*given), mix(*given))


@pytest.mark.parametrize(("strict", "most"), [(False, 64), (True, 64), (False, None), (True, None)])
def test_exported_with_a_free_batch_size(fusion, strict, most):
    module, v, _ = fusion
    sizes = ({0: torch.export.Dim("batch", min=2, max=most)},)
    with torch.no_grad():
        program = torch.export.export(module, (v.repeat(2, 1, 1),), dynamic_shapes=sizes, strict=strict)
        called = {str(node.target) for node in program.graph.nodes}
        assert ("tove.gated_mix.default" in called) == TRITON
        torch.testing.assert_close(program.module()(v.repeat(3, 1, 1)), module(v.repeat(3, 1, 1)))


def test_under_autocast_sums_stay_in_float32(fusion):
    module, v, mask = fusion
    with torch.autocast(DEVICE, torch.bfloat16):
        out, weights = module(v, mask)
    assert out.dtype == torch.float32 and weights.dtype == torch.float32
    with torch.autocast(DEVICE, torch.bfloat16):
        got = learn(module, v, mask)
    same(got, learn(module, v, mask), rtol=0.1, atol=0.3)


def test_functional_gradient(fusion):
    module, v, mask = fusion
    want = learn(module, v, mask)

    def loss(parameters, v):
        out, weights = torch.func.functional_call(module, parameters, (v, mask))
        return out.square().sum() + weights.square().sum()

    parameters = {name: p.detach() for name, p in module.named_parameters()}
    found, of_v = torch.func.grad(loss, argnums=(0, 1))(parameters, v)
    same(found | {"v": of_v}, {k: one for k, one in want.items() if k not in ("out", "weights")})


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(fusion, reentrant):
    module, v, mask = fusion

    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, v, mask):
            return torch.utils.checkpoint.checkpoint(module, v, mask, use_reentrant=reentrant)

    same(learn(Kept(), v, mask), learn(module, v, mask))


def test_distributed_data_parallel(fusion, tmp_path):
    module, v, mask = fusion
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        same(learn(nn.parallel.DistributedDataParallel(module), v, mask), learn(module, v, mask))
    finally:
        torch.distributed.destroy_process_group()


def test_a_second_derivative_comes_in_plain_pytorch_and_is_refused_by_triton(fusion):
    v, mask = fusion[1], torch.tensor([[True, False], [True, True]], device=DEVICE)
    logits = v[..., :3].detach().requires_grad_()
    tokens = v.detach().requires_grad_()

    def mix(tokens, logits):
        return gated_mix(tokens, [tokens.sin(), tokens.cos()], logits, mask=mask).sum()

    (first,) = torch.autograd.grad(mix(tokens, logits), logits, create_graph=True)
    if TRITON:
        with pytest.raises(RuntimeError, match="second derivative"):
            first.square().sum().backward()
    else:
        first.square().sum().backward()
        given = [x[:, :2].detach().double().requires_grad_() for x in (tokens, logits)]
        assert torch.autograd.gradgradcheck(mix, given, fast_mode=True)


def arguments(mask, dtype):
    g = torch.Generator().manual_seed(0)
    experts = [torch.randn(2, 5, 9, generator=g).to(DEVICE, dtype) for _ in range(2)]
    logits = torch.randn(2, 5, 3, generator=g).to(DEVICE)
    on = {"none": None, "sample": torch.rand(2, 2, generator=g) < 0.6, "token": torch.rand(2, 5, 2, generator=g) < 0.6}
    mask = None if on[mask] is None else on[mask].to(DEVICE)
    return torch.randn(2, 5, 9, generator=g).to(DEVICE, dtype), experts, logits, mask


@pytest.mark.parametrize(
    ("mask", "dtype"), [("none", torch.bfloat16), ("sample", torch.float32), ("token", torch.float32)]
)
def test_registrations_agree_with_what_the_operators_do(mask, dtype):
    v, experts, logits, on = arguments(mask, dtype)
    gate, weights = (on, "renormalise", "softmax"), logits[..., :2].contiguous()
    ops, bias = torch.ops.tove, [torch.ones(9, device=DEVICE), torch.zeros(9, device=DEVICE)]
    whole = [
        (ops.gated_mix.default, (v, [e[:, 1:] for e in experts], logits, *gate, 1)),
        (ops.gated_mix_backward.default, (v, experts, logits, *gate, 0, [True, True])),
        (ops.gated_activation_mix.default, (experts, bias, logits, *gate)),
        (ops.gated_activation_mix_backward.default,
         (v, weights, weights, experts, bias, logits, *gate, [True, True, True])),
    ]  # fmt: skip
    for operator, given in whole:
        # Tracing with free sizes is slow: once is enough.
        every = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
        library.opcheck(operator, given, test_utils=every if mask == "token" else every[:3])
    quick = ("test_schema", "test_faketensor")
    library.opcheck(ops.gated_mix.default, (v, experts, weights, on, "zero", "given", 0), test_utils=quick)
    library.opcheck(ops.gated_activation_mix.default, (experts, [], weights, on, "zero", "given"), test_utils=quick)
    for flags in ([True, False], [False, True]):
        library.opcheck(ops.gated_mix_backward.default, (v, experts, logits, *gate, 0, flags), test_utils=quick)
    for flags in ([True, False, False], [False, False, True], [False, True, False]):
        given = (v, None, weights, experts, bias, logits, *gate, flags)
        library.opcheck(ops.gated_activation_mix_backward.default, given, test_utils=quick)
