"""Registers, spills, shared memory and the width of memory accesses of a compiled kernel, from its machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton.backends.nvidia
from triton.compiler import CompiledKernel

from tove_kernels.offline.compile import Compiled

# Of one streaming multiprocessor. Sizes are those of NVIDIA's CUDA core libraries, `arch_traits` in
# libcudacxx/include/cuda/__device/arch_traits.h (github.com/NVIDIA/cccl, commit 571f2fc): 2048 threads, 32 blocks and
# 64 Ki registers for 8.0, 9.0 and 10.0, and shared memory of 164, 228 and 228 KiB, of which each block costs 1 KiB more
# than it asks for. How they are given out is that of the CUDA toolkit's calculator, cuda_occupancy.h, which comes with
# triton: registers to warps in steps of 256, from a quarter of them each; shared memory in steps of 128 bytes.
LIMITS = {80: (164, 64), 90: (228, 64), 100: (228, 64)}  # shared memory in KiB, resident warps
REGISTERS, REGISTER_STEP, QUARTERS = 65_536, 256, 4
BLOCKS = 32
SYSTEM_SHARED, SHARED_STEP = 1024, 128

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_ACCESS = re.compile(r"\b(LDG|STG)\.E((?:\.\w+)*)")
_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}


@dataclass(frozen=True)
class Resources:
    """What one thread or block of a kernel uses.

    `loads` and `stores` count instructions to global memory by width in bits; `local` is spilled bytes per thread,
    `blocks` how many blocks fit on a streaming multiprocessor together.
    """

    registers: int
    local: int
    shared: int
    warps: int
    loads: dict[int, int]
    stores: dict[int, int]
    blocks: int


def resources(compiled: Compiled) -> Resources:
    """Read the resources of a compiled kernel.

    Raises:
        RuntimeError: the tools that come with triton cannot read it.
    """
    kernel: CompiledKernel = compiled.kernel
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(kernel.asm["cubin"])
        usage = _USAGE.search(_tool("cuobjdump", "-res-usage", path))
        code = _tool("nvdisasm", "-c", path)
    if usage is None:
        raise RuntimeError(f"cuobjdump says nothing of the resources of {compiled.name}; use the one triton ships")
    registers, stack, _, local = map(int, usage.groups())
    shared, warps = kernel.metadata.shared, kernel.metadata.num_warps  # type: ignore[attr-defined]  # a namedtuple
    arch = int(kernel.metadata.target.arch)  # type: ignore[attr-defined]
    return Resources(
        registers,
        stack + local,
        shared,
        warps,
        _accesses(code, "LDG"),
        _accesses(code, "STG"),
        resident(arch, registers, shared, warps),
    )


def _tool(name: str, option: str, path: Path) -> str:
    tool = Path(triton.backends.nvidia.__path__[0], "bin", name)
    done = subprocess.run([str(tool), option, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} fails: {done.stderr.strip() or done.stdout.strip()}; use the one triton ships")
    return done.stdout + done.stderr


def _accesses(code: str, kind: str) -> dict[int, int]:
    found: Counter[int] = Counter()
    for operation, suffixes in _ACCESS.findall(code):
        if operation == kind:
            widths = [_WIDTHS[part] for part in suffixes.split(".") if part in _WIDTHS]
            found[widths[0] if widths else 32] += 1
    return dict(sorted(found.items()))


def resident(arch: int, registers: int, shared: int, warps: int) -> int:
    """Return how many blocks fit on a streaming multiprocessor together.

    Args:
        arch: 80, 90 or 100.
        registers: of a thread.
        shared: bytes of a block.
        warps: of a block.
    """
    kibibytes, most_warps = LIMITS[arch]
    per_warp = -(-registers * 32 // REGISTER_STEP) * REGISTER_STEP
    by_registers = REGISTERS // QUARTERS // per_warp * QUARTERS // warps
    per_block = -(-(shared + SYSTEM_SHARED) // SHARED_STEP) * SHARED_STEP
    return min(by_registers, most_warps // warps, BLOCKS, kibibytes * 1024 // per_block)
