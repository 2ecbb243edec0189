"""The operators in programs that inductor compiles, also where it records CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from tove_kernels import align_tokens, gated_activation_mix, gated_mix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_all_operators_in_one_program_with_and_without_cuda_graphs(monkeypatch, mode):
    monkeypatch.setenv("TOVE_KERNELS", "triton")
    torch.manual_seed(3)
    maps, v = torch.randn(2, 18, 4, 4, device="cuda"), torch.randn(2, 9, 18, device="cuda")
    mask = torch.tensor([[True, False], [True, True]], device="cuda")

    def run(v):
        u = align_tokens(maps, (3, 3), norm="position")
        mixed = gated_activation_mix([u, v], None, v[..., :3], mask=mask)
        return gated_mix(v, [mixed, u], v[..., 3:6], rule="renormalise", mask=mask)

    torch._dynamo.reset()
    compiled = torch.compile(run, mode=mode, fullgraph=True)
    with torch.no_grad():
        for scale in (1.0, 2.0, 3.0, 4.0):  # recorded at the second or third call, and replayed afterwards
            torch.testing.assert_close(compiled(scale * v).clone(), run(scale * v), rtol=1e-4, atol=1e-4)
