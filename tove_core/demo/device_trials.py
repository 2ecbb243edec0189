"""`tove doctor --device`: what a device computes, beside the CPU: each kernel, and a small model with all its parts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import tove_kernels
from torch import Tensor
from tove_kernels.activation_mix import reference as activation_mix
from tove_kernels.align.reference import align_reference
from tove_kernels.choice import VARIABLE
from tove_kernels.residual_mix import reference as residual_mix

from tove_core.builder import assemble
from tove_core.data.sample import Sample
from tove_core.demo.reader import samples
from tove_core.demo.splits import TEST
from tove_core.demo.world import model_config
from tove_core.language.base import Decoder
from tove_core.language.likelihood import likelihoods
from tove_core.model import ToveModel
from tove_core.training.run import prepare

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest error of a kernel: the norm of what is off by that of what is right, which is computed in float64."""

MODEL = 1e-2
"""The same of a model, against the CPU in float32; GPUs convolve in TF32, of ten bits."""

_EXPERTS, _SIZE = 4, (2, 197, 768)


@dataclass(frozen=True)
class Trial:
    """One thing that was computed twice.

    Attributes:
        name: of what was computed.
        error: how far it was off, relative; None: it failed.
        most: how far it may be off.
        seconds: how long it took on the device, compiling included.
        fault: what it failed with.
    """

    name: str
    error: float | None
    most: float
    seconds: float
    fault: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is near enough; what is not finite is not."""
        return self.error is not None and self.error <= self.most

    def __str__(self) -> str:
        """Return one line."""
        if self.error is None:
            return f"{self.name}: failed, {self.fault}"
        told = f"off by {self.error:.1e}, may be {self.most:.0e}, {self.seconds:.1f} s"
        return f"{self.name}: {told if self.passed else f'wrong, {told}'}"


def trials(device: torch.device) -> Iterator[Trial]:
    """Compute on a device and on the CPU, one thing after another; a failure ends none but its own."""
    for dtype, most in TOLERANCE.items():
        for name, own, right, given in _kernels():
            label = f"{name} {str(dtype).removeprefix('torch.')}"
            yield _tried(label, most, partial(_of_kernel, own, right, given, device, dtype))
    asked = [one for one in samples(TEST, 4) if one.prompt is not None]
    built = cache(partial(_built, asked))
    for name, compute in (("tokens", _tokens), ("gradients", _gradients), ("answers", _answers)):
        yield _tried(f"a model's {name}", MODEL, partial(_of_model, built, compute, asked, device))


Pair = tuple[Sequence[Tensor], Sequence[Tensor], float]
"""What was computed, what is right, and the seconds that the first took."""


def _tried(name: str, most: float, compute: Callable[[], Pair]) -> Trial:
    try:
        got, want, seconds = compute()
    except Exception as error:  # whatever a driver, a compiler or a kernel comes up with
        return Trial(name, None, most, 0.0, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    # Not Python's max, which forgets a NaN that comes later.
    return Trial(name, float(torch.tensor([*map(_off, got, want)]).max()), most, seconds)


def _off(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().cpu().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp(min=1e-12))


Kernel = tuple[str, Callable[..., Tensor], Callable[..., Tensor], Sequence[Tensor]]
"""Its name, the kernel, the same in plain PyTorch, and what both are given."""


def _kernels() -> Iterator[Kernel]:
    draw = torch.Generator().manual_seed(0)
    tokens, *experts = (torch.randn(_SIZE, generator=draw) for _ in range(1 + _EXPERTS))
    logits = torch.randn(*_SIZE[:2], _EXPERTS, generator=draw)
    bias = [torch.randn(_SIZE[2], generator=draw) for _ in experts]

    def mixed(form: Callable[..., Tensor], v: Tensor, logits: Tensor, *e: Tensor) -> Tensor:
        return form(v, e, logits, mask=None, rule="zero", activation="softmax", prefix=1)

    def activated(form: Callable[..., Any], logits: Tensor, *both: Tensor) -> Tensor:
        found = form(both[:_EXPERTS], both[_EXPERTS:], logits, mask=None, rule="zero", activation="softmax")
        return found if isinstance(found, Tensor) else found[0]

    given = [tokens, logits, *(one[:, 1:] for one in experts)]
    yield "gated_mix", partial(mixed, tove_kernels.gated_mix), partial(mixed, residual_mix.gated_mix), given
    own, right = tove_kernels.gated_activation_mix, activation_mix.gated_activation_mix
    yield "gated_activation_mix", partial(activated, own), partial(activated, right), [logits, *experts, *bias]
    for size, grid, norm, fold in (((37, 37), (24, 24), "position", 1), ((12, 12), (8, 8), "none", 4)):
        maps = torch.randn(2, 64, *size, generator=draw)

        def aligned(x: Tensor, grid: Any = grid, norm: Any = norm, fold: int = fold) -> Tensor:
            return tove_kernels.align_tokens(x.detach(), grid, norm=norm, fold=fold)

        def plainly(x: Tensor, grid: Any = grid, norm: Any = norm, fold: int = fold) -> Tensor:
            return align_reference(x.detach(), grid, norm, None, None, fold, torch.float64)

        yield f"align_tokens {size[0]}x{size[1]} to {grid[0] * fold}x{grid[1] * fold}", aligned, plainly, [maps]


def _of_kernel(
    own: Callable[..., Tensor],
    right: Callable[..., Tensor],
    given: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Pair:
    rounded = [one.to(dtype) for one in given]
    want = _with_gradients(right, [one.double() for one in rounded])
    began = time.perf_counter()
    got = [one.cpu() for one in _with_gradients(own, [one.to(device) for one in rounded])]
    return got, want, time.perf_counter() - began


def _with_gradients(form: Callable[..., Tensor], given: Sequence[Tensor]) -> list[Tensor]:
    leaves = [one.detach().requires_grad_() for one in given]
    out = form(*leaves)
    if not out.requires_grad:  # what aligns frozen features passes no gradient on
        return [out]
    ahead = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out)  # exact in any type
    return [out, *torch.autograd.grad(out, leaves, ahead)]


def _built(asked: list[Sample], device: torch.device | str) -> tuple[ToveModel, Decoder]:
    model = assemble(model_config("gate"), device=device)
    prepare(model, asked)
    if model.decoder is None:
        raise RuntimeError("the world's model has no decoder")
    return model, model.decoder


def _of_model(
    built: Callable[[torch.device | str], tuple[ToveModel, Decoder]],
    compute: Callable[[ToveModel, Decoder, list[Sample]], Sequence[Tensor]],
    asked: list[Sample],
    device: torch.device,
) -> Pair:
    with _plain_forms():
        want = compute(*built("cpu"), asked)
    began = time.perf_counter()
    got = [one.cpu() for one in compute(*built(device), asked)]
    return got, want, time.perf_counter() - began


@contextmanager
def _plain_forms() -> Iterator[None]:
    """Let operators run in plain PyTorch: what is right must not come from what is tried."""
    asked = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "reference"
    try:
        yield
    finally:
        if asked is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = asked


def _tokens(model: ToveModel, decoder: Decoder, asked: list[Sample]) -> Sequence[Tensor]:
    return [model.tokens([one.load() for one in asked])]


def _gradients(model: ToveModel, decoder: Decoder, asked: list[Sample]) -> Sequence[Tensor]:
    prompts, targets = [one.prompt or "" for one in asked], [one.targets[0] for one in asked]
    loss = decoder(model.fuse(model.encode([one.load() for one in asked])).tokens, prompts, targets).loss
    learnt = [one for part in (model.fusion, decoder) if part is not None for one in part.parameters()]
    learnt = [one for one in learnt if one.requires_grad]
    gradients = torch.autograd.grad(loss, learnt, allow_unused=True)
    return [loss.reshape(1), torch.cat([one.reshape(-1).float() for one in gradients if one is not None])]


def _answers(model: ToveModel, decoder: Decoder, asked: list[Sample]) -> Sequence[Tensor]:
    tokens, prompts = model.tokens([one.load() for one in asked]), [one.prompt or "" for one in asked]
    decoder.generate(tokens, prompts)  # has to run; the same text twice would say less than its probability
    found = likelihoods(decoder, tokens, prompts, [one.targets[0] for one in asked])
    return [torch.tensor([one.log_probability for one in found], dtype=torch.float64)]
