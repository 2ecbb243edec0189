"""These files test kernels in triton's interpreter; test_interpreted.py, one folder up, runs each in its own process.

Triton decides whether it interprets when it is first imported, which in a longer test session has long happened.
With TOVE_TEST_DEVICE=cuda, and no interpreter, the same proof runs on a GPU.
"""

from __future__ import annotations

import math
import os

import pytest
import torch

DEVICE = os.environ.get("TOVE_TEST_DEVICE", "cpu")
if os.environ.get("TRITON_INTERPRET") != "1" and DEVICE == "cpu":
    collect_ignore_glob = ["test_*.py"]

# ‖got - want‖ / ‖want‖; triton's interpreter truncates where hardware rounds to bfloat16.
TOLERANCE = {
    torch.float64: (1e-13, 1e-12),
    torch.float32: (1e-6, 2e-6),
    torch.float16: (5e-4, 5e-4),
    torch.bfloat16: (6e-3, 6e-3) if DEVICE == "cpu" else (2.5e-3, 2.5e-3),
}


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch):
    monkeypatch.setenv("TOVE_KERNELS", "triton")


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture
def poison(monkeypatch):
    """Fill new memory with NaN, so that what a kernel leaves unwritten is seen."""
    empty = torch.empty

    def poisoned(*size, **options):
        made = empty(*size, **options)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def near():
    """Give `near(got, want, gradient=False)`: got is of its own type, want the truth in float64."""

    def check(got, want, gradient=False):
        assert got is not None and got.shape == want.shape
        tolerance = TOLERANCE[got.dtype][gradient]
        error, size = (got.double().cpu() - want).norm().item(), want.norm().item()
        assert error <= tolerance * max(size, 1.0), f"off by {error / max(size, 1.0):.1e}, tolerated {tolerance:.1e}"

    return check


@pytest.fixture
def true_weights():
    """Give the definition of gate weights in float64, entry by entry, written apart from the package."""

    def weights(logits, experts, mask, rule, activation):
        logits = logits.double()
        on = torch.ones(*logits.shape[:2], experts, dtype=torch.bool)
        if mask is not None:
            on = (mask[:, None] if mask.dim() == 2 else mask).expand_as(on)
        if activation == "given":
            return logits * on
        if activation == "sigmoid":
            return 2 / (1 + torch.exp(-logits[..., :experts])) * on
        extra = torch.ones(*logits.shape[:2], logits.shape[-1] - experts, dtype=torch.bool)
        counted = torch.cat([on, extra], -1) if rule == "renormalise" else torch.ones_like(logits, dtype=torch.bool)
        top = torch.where(counted, logits, -math.inf).amax(-1, keepdim=True).detach().nan_to_num(neginf=0.0)
        powers = torch.where(counted, logits - top, -math.inf).exp()
        shares = powers / powers.sum(-1, keepdim=True).clamp(min=1e-300)
        return (counted.sum(-1, keepdim=True) * shares)[..., :experts] * on

    return weights


@pytest.fixture
def mask_of():
    def make(kind, batch, tokens, experts, generator):
        if kind == "none":
            return None
        shape = (batch, experts) if kind == "sample" else (batch, tokens, experts)
        return torch.rand(shape, generator=generator) < 0.6

    return make
