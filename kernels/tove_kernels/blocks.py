"""How kernels cut their work into blocks: a fixed table by width, so that nothing is tuned while a model runs."""

from __future__ import annotations

from dataclasses import dataclass

from tove_kernels.choice import interpreting

WIDEST, NARROWEST = 1024, 64
# Programs of the activation mix's backward: eight for each multiprocessor of the largest GPUs there are today.
# A constant, not a property of the device: sums over programs then run in the same order everywhere.
PROGRAMS = 1056


@dataclass(frozen=True)
class Blocks:
    """Rows and columns of a block, both powers of two, and the warps that work on it."""

    rows: int
    columns: int
    warps: int


def columns(width: int) -> int:
    """Return the columns of a block: a divisor of the width if that is wide enough, else little more than a divisor.

    1408 is 11 * 128: a power of two above it would leave 31 % of the lanes idle.
    """
    if width <= NARROWEST:
        return max(16, 1 << (width - 1).bit_length())
    sizes = [2**i for i in range(WIDEST.bit_length() - 1, NARROWEST.bit_length() - 2, -1)]
    for size in sizes:
        if size >= 128 and width % size == 0:
            return size
    padded = {size: -(-width // size) * size for size in sizes}
    least = min(padded.values())
    return next(size for size in sizes if padded[size] <= max(least, 1.1 * width))


def forward_blocks(width: int, rows: int) -> Blocks:
    """Blocks of a forward pass over `rows` rows: 4096 elements, two 16-byte loads of bfloat16 per thread and tensor."""
    wide = columns(width)
    return Blocks(_interpreted(rows) or max(1, 4096 // wide), wide, 8)


def backward_blocks(width: int, rows: int) -> Blocks:
    """Blocks of a backward pass: 1024 elements, so that the many streams of a program stay in registers.

    Of 256 columns where they divide the width: a row then lies within one warp, whose sum waits for no other.
    """
    wide = _halved(columns(width))
    return Blocks(_interpreted(rows) or max(1, 1024 // wide), wide, 4)


def activation_backward_blocks(width: int, rows: int) -> Blocks:
    """Blocks of the activation mix's backward pass: as others, but two warps on half as much of 256 columns.

    2 x 256 by 2 warps was compiled for sm_90 to 128 registers and no spill with 4 experts: eight fit on a
    multiprocessor, as many as `PROGRAMS` has for each.
    """
    blocks = backward_blocks(width, rows)
    return Blocks(_interpreted(rows) or 2, 256, 2) if blocks.columns == 256 else blocks


def _halved(wide: int) -> int:
    """Return 256 for wider blocks, which all are multiples of it."""
    return min(wide, 256)


def row_block(rows: int) -> int:
    """Rows of a block of a kernel that touches only gates: one per thread of four warps."""
    return _interpreted(rows) or 128


def span(rows: int, blocks: Blocks, across: int) -> int:
    """Return how many rows one program walks where `across` programs share a row and about `PROGRAMS` run in all."""
    programs = 6 if interpreting() else PROGRAMS
    blocks_down = -(-rows // blocks.rows)
    return -(-blocks_down // max(1, programs // across)) * blocks.rows


def _interpreted(rows: int) -> int:
    """Return the rows of a block in triton's interpreter, where a program costs half a millisecond; else 0."""
    return min(256, 1 << max(0, (rows - 1) // 2).bit_length()) if interpreting() else 0
