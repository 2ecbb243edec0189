"""The two mixing operators and their rivals: eager loops, eager stacks, and what torch.compile makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tove_kernels import gated_activation_mix, gated_mix

from kernel_bench.rivals import attention_residuals
from kernel_bench.traffic import activation_bytes, mix_bytes
from kernel_bench.workload import Compute, Form, Problem, Workload, own_forms

SMALL = 32 * 1024 * 1024  # bytes forward below which launches weigh as much as the work


@dataclass(frozen=True)
class MixShape:
    """B images, N tokens, D channels (H for the activation mix), K experts."""

    batch: int
    tokens: int
    width: int
    experts: int

    def __str__(self) -> str:
        return f"B={self.batch} N={self.tokens} D={self.width} K={self.experts}"


REFERENCE = MixShape(64, 577, 1024, 4)
SHAPES = [
    REFERENCE,
    MixShape(8, 197, 768, 4),
    MixShape(64, 197, 768, 4),
    MixShape(64, 577, 1408, 8),
    MixShape(64, 577, 1024, 2),
    MixShape(64, 577, 1024, 1),
]
ON_CPU = MixShape(8, 197, 768, 4)


def mix_workload(shape: MixShape, dtype: torch.dtype, device: torch.device) -> Workload:
    """`gated_mix`: leaves are the logits and the experts, fixed are the tokens."""
    element = torch.finfo(dtype).bits // 8

    def make(seed: int, device: torch.device) -> Problem:
        tokens, grad, *experts = _tensors(shape, dtype, seed, device, shape.experts + 2)
        return Problem([_logits(shape, seed, device), *experts], [tokens], grad)

    forms = {
        **own_forms(_tove_mix, device),
        "eager loop, fp32 gates": Form(_loop),
        "eager loop, gates as tokens": Form(_loop_cast),
        "eager stack and sum": Form(_stack),
        "torch.compile of the loop": Form(compiled(_loop_cast)),
        "torch.compile of the loop, fp32 gates": Form(compiled(_loop)),
        "torch.compile of the stack": Form(compiled(_stack)),
    }
    found, absent = attention_residuals(device)
    needed = mix_bytes(shape.batch, shape.tokens, shape.width, shape.experts, element)
    return Workload(
        "gated_mix", str(shape), dtype, make, _loop, needed, forms | found, "eager loop, fp32 gates", absent,
        needed["forward"] < SMALL,
    )  # fmt: skip


def activation_workload(shape: MixShape, dtype: torch.dtype, device: torch.device) -> Workload:
    """`gated_activation_mix`: leaves are the logits, the biases and the hidden tensors."""
    element = torch.finfo(dtype).bits // 8

    def make(seed: int, device: torch.device) -> Problem:
        grad, *hidden = _tensors(shape, dtype, seed, device, shape.experts + 1)
        draw = torch.Generator(device).manual_seed(seed + 2)
        biases = torch.randn(shape.experts, shape.width, generator=draw, device=device).unbind()
        leaves = [_logits(shape, seed, device), *(one.clone().requires_grad_() for one in biases), *hidden]
        return Problem(leaves, [], grad)

    forms = {
        **own_forms(_tove_activation, device),
        "eager loop": Form(_activation_loop),
        "torch.compile of the loop": Form(compiled(_activation_loop)),
    }
    needed = activation_bytes(shape.batch, shape.tokens, shape.width, shape.experts, element)
    return Workload(
        "gated_activation_mix", str(shape), dtype, make, _activation_loop, needed, forms, "eager loop",
        small=needed["forward"] < SMALL,
    )  # fmt: skip


def _tensors(shape: MixShape, dtype: torch.dtype, seed: int, device: torch.device, count: int) -> list[Tensor]:
    draw = torch.Generator(device).manual_seed(seed)
    size = (shape.batch, shape.tokens, shape.width)
    first = count - shape.experts  # those before the experts need no gradient
    return [
        torch.randn(size, generator=draw, device=device, dtype=dtype).requires_grad_(place >= first)
        for place in range(count)
    ]


def _logits(shape: MixShape, seed: int, device: torch.device) -> Tensor:
    draw = torch.Generator(device).manual_seed(seed + 1)
    return torch.randn(shape.batch, shape.tokens, shape.experts, generator=draw, device=device).requires_grad_()


def _gates(logits: Tensor) -> Tensor:
    return logits.softmax(-1) * logits.shape[-1]


def _tove_mix(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
    return gated_mix(fixed[0], leaves[1:], leaves[0])


def _loop(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
    out, gates = fixed[0], _gates(leaves[0])
    for k, expert in enumerate(leaves[1:]):
        out = out + gates[..., k : k + 1] * expert
    return out.to(fixed[0].dtype)


def _loop_cast(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
    out, gates = fixed[0], _gates(leaves[0]).to(fixed[0].dtype)
    for k, expert in enumerate(leaves[1:]):
        out = out + gates[..., k : k + 1] * expert
    return out


def _stack(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
    gates = _gates(leaves[0]).to(fixed[0].dtype)
    return fixed[0] + (gates[..., None] * torch.stack(leaves[1:], 2)).sum(2)


def _tove_activation(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
    experts = len(leaves) // 2
    return gated_activation_mix(leaves[1 + experts :], leaves[1 : 1 + experts], leaves[0])


def _activation_loop(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
    experts = len(leaves) // 2
    gates, hidden = _gates(leaves[0]), leaves[1 + experts :]
    out = None
    for k, (bias, tokens) in enumerate(zip(leaves[1 : 1 + experts], hidden, strict=True)):
        one = gates[..., k : k + 1] * F.gelu(tokens + bias)
        out = one if out is None else out + one
    return out.to(hidden[0].dtype)  # type: ignore[union-attr]  # there is at least one expert


def compiled(compute: Compute) -> Compute:
    """Compile a form for the one shape it is called with, when it is first called."""
    made: Callable[..., Tensor] | None = None

    def call(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
        nonlocal made
        if made is None:
            made = torch.compile(compute, dynamic=False, fullgraph=True)
        return made(leaves, fixed)

    return call
