"""Compile what a launcher launches, for a named architecture and without a GPU.

The launcher runs as it does on a GPU, on `meta` tensors; each launch is turned into Triton's own ahead-of-time
compilation. So what is compiled is what would run: tiles, warps, specialised strides and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

ARCHITECTURES = {"sm_80": 80, "sm_90": 90, "sm_100": 100}  # A100; H100 and H200; B200


@dataclass(frozen=True)
class Compiled:
    """One launch: the kernel's name, its compile-time constants, the number of programs and Triton's result."""

    name: str
    constants: dict[str, Any]
    programs: int
    kernel: CompiledKernel


class _Absent:
    """Stands for the driver of a GPU that is not there: it answers what compilation asks, and runs nothing."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # triton keeps compiled kernels per device, so each architecture gets a number of its own

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")


def compile_launches(launch: Callable[[], object], arch: str = "sm_90") -> list[Compiled]:
    """Run a launcher on `meta` tensors and compile each of its launches.

    Args:
        launch: calls one or more kernels, `kernel[grid](...)`.
        arch: one of ARCHITECTURES.

    Raises:
        RuntimeError: triton interprets in this process, so there is nothing to compile.
        ValueError: there is no such architecture here.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {arch!r}; wanted one of {', '.join(ARCHITECTURES)}")
    if not isinstance(_probe(), JITFunction):
        raise RuntimeError("triton interprets kernels in this process; compile in one without TRITON_INTERPRET")
    with _recorded(ARCHITECTURES[arch]) as found:
        launch()
    return found


def _probe() -> object:
    from triton.language.standard import zeros

    return zeros


@contextmanager
def _recorded(arch: int) -> Iterator[list[Compiled]]:
    found: list[Compiled] = []
    real = JITFunction.run

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel: Any = real(self, *args, grid=grid, warmup=True, **options)
        bound = dict(zip(self.arg_names, args, strict=False)) | options
        constants = {p.name: bound[p.name] for p in self.params if p.is_constexpr and p.name in bound}
        extents: Any = grid(bound) if callable(grid) else grid
        found.append(Compiled(self.__name__, constants, prod(extents), kernel))
        return kernel

    before = driver._active  # reset_active() would look for a GPU, and fail where there is none
    driver.set_active(_Absent(arch))  # type: ignore[arg-type]  # only what compilation asks for is there
    JITFunction.run = record  # type: ignore[method-assign]
    try:
        yield found
    finally:
        JITFunction.run = real  # type: ignore[method-assign]
        driver._active = before
