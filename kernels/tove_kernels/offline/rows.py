"""The table of compiled kernels: what each uses on each architecture, and the vector accesses it should have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tove_kernels.offline.case import Case
from tove_kernels.offline.compile import Compiled, compile_launches
from tove_kernels.offline.resources import Resources, resources

VECTOR = 128  # bits, the widest access of all architectures


@dataclass(frozen=True)
class Row:
    """One kernel of one case on one architecture.

    `loads` and `stores` are 128-bit instructions that the main tensors of a program's tile take where every access is
    as wide as can be; 0 where nothing is promised.
    """

    case: str
    arch: str
    kernel: str
    used: Resources
    loads: int
    stores: int

    @property
    def complaints(self) -> list[str]:
        """What is wrong with the kernel: spills, or main tensors that are not read and written in 128 bits."""
        found = []
        if self.used.local:
            found.append(f"{self.used.local} bytes per thread are spilled")
        for kind, wanted, seen in (
            ("loads", self.loads, self.used.loads),
            ("stores", self.stores, self.used.stores),
        ):
            if seen.get(VECTOR, 0) < wanted:
                found.append(f"{seen.get(VECTOR, 0)} {kind} of 128 bits, wanted {wanted}; widths {seen}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self) | {"complaints": self.complaints}


def rows(cases: list[Case], arch: str) -> Iterator[Row]:
    """Compile the cases for an architecture and read their kernels."""
    for case in cases:
        for compiled in compile_launches(case.launch, arch):
            yield _row(case, arch, compiled)


def _row(case: Case, arch: str, compiled: Compiled) -> Row:
    used = resources(compiled)
    loads = stores = 0
    if compiled.name in case.vectors:
        bits = VECTOR * 32 * used.warps
        loads, stores = (-(-count * case.bits // bits) for count in case.vectors[compiled.name](compiled.constants))
    return Row(case.name, arch, compiled.name, used, loads, stores)
