"""What both mixing kernels do to gate logits, in registers: a vector over the rows of a block for each entry.

Shares times a factor are the weights: softmax times the entries still in, sigmoid times 2, given times 1.
"""

# Triton's language is not Python to a type checker: it indexes functions and iterates over static_range.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

SOFTMAX, SIGMOID, GIVEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
ALL_ON, PER_SAMPLE, PER_TOKEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
ACTIVATIONS = {"softmax": 0, "sigmoid": 1, "given": 2}
# Finite, as in the reference: a row whose experts are all off must not become NaN.
FLOOR = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def locate(start, rows, tokens, ROWS: tl.constexpr):
    """Return row numbers, image and token of a block as int64, and which rows exist."""
    # Divided in 32 bits, which is much cheaper, and widened before any product.
    row = start + tl.arange(0, ROWS)
    image = row // tokens
    token = row - image * tokens
    return row.to(tl.int64), image.to(tl.int64), token.to(tl.int64), row < rows


@triton.jit
def block_of(WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Return which block of rows and of columns a program has: programs that follow each other share their rows.

    So what runs at one time reads and writes whole rows of memory, and the rows' logits come from the cache.
    """
    across: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    if across == 1:
        # place is 0, but a 0 that is known only when it runs: of a plain one ptxas computes so much ahead that the
        # activation mix takes 7 to 20 registers more.
        down, place = tl.program_id(0), tl.program_id(1)
    else:
        down = tl.program_id(0) // across
        place = tl.program_id(0) - down * across
    return down, place


@triton.jit
def switched_on(mask, row, image, exists, K: tl.constexpr, MASK: tl.constexpr):
    """Return for each expert the rows where it is on."""
    found = ()
    for k in tl.static_range(K):
        if MASK == PER_SAMPLE:
            found = found + (tl.load(mask + image * K + k, mask=exists, other=0) != 0,)
        elif MASK == PER_TOKEN:
            found = found + (tl.load(mask + row * K + k, mask=exists, other=0) != 0,)
        else:
            found = found + (exists,)
    return found


@triton.jit
def shares(
    logits,
    on,
    row,
    exists,
    K: tl.constexpr,
    E: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RENORMALISE: tl.constexpr,
    MASK: tl.constexpr,
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Return the E shares of a row (K unless softmax), and after them the factor that makes weights of them."""
    values = ()
    top = tl.full([ROWS], float("-inf"), ACC)
    count = tl.full([ROWS], 0.0, ACC)
    for e in tl.static_range(E):
        x = tl.load(logits + row * E + e, mask=exists, other=0.0).to(ACC)
        if RENORMALISE and MASK != ALL_ON and e < K:
            x = tl.where(on[e], x, FLOOR)
            count += on[e].to(ACC)
        else:
            count += 1.0
        top = tl.maximum(top, x)
        values = values + (x,)
    found = ()
    if ACTIVATION == SOFTMAX:
        powers = ()
        total = tl.full([ROWS], 0.0, ACC)
        for e in tl.static_range(E):
            power = tl.exp(values[e] - top)
            total += power
            powers = powers + (power,)
        for e in tl.static_range(E):
            found = found + (powers[e] / total,)
        found = found + (count,)
    elif ACTIVATION == SIGMOID:
        for k in tl.static_range(K):
            found = found + (1.0 / (1.0 + tl.exp(-values[k])),)
        found = found + (tl.full([ROWS], 2.0, ACC),)
    else:
        found = values + (tl.full([ROWS], 1.0, ACC),)
    return found


@triton.jit
def weights(parts, on, K: tl.constexpr, MASK: tl.constexpr):
    """Return the K weights that `shares` stand for, 0 where an expert is off."""
    found = ()
    for k in tl.static_range(K):
        weight = parts[k] * parts[len(parts) - 1]
        if MASK != ALL_ON:
            weight = tl.where(on[k], weight, 0.0)
        found = found + (weight,)
    return found


@triton.jit
def store_logits_gradient(
    out,
    grads,
    parts,
    on,
    row,
    exists,
    live,
    K: tl.constexpr,
    E: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MASK: tl.constexpr,
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write the gradient of the logits from that of the weights; rows that are not `live` get zeros."""
    factor = parts[len(parts) - 1]
    full = ()
    dot = tl.full([ROWS], 0.0, ACC)
    for k in tl.static_range(K):
        grad = grads[k] * factor
        if MASK != ALL_ON:
            grad = tl.where(on[k], grad, 0.0)
        dot += parts[k] * grad
        full = full + (grad,)
    for e in tl.static_range(E):
        found = tl.full([ROWS], 0.0, ACC)
        if ACTIVATION == SOFTMAX:
            if e < K:
                found = parts[e] * (full[e] - dot)
            else:
                found = -parts[e] * dot
        elif ACTIVATION == SIGMOID:
            if e < K:
                found = full[e] * parts[e] * (1.0 - parts[e])
        else:
            found = full[e]
        found = tl.where(live, found, 0.0)
        tl.store(out + row * E + e, found.to(out.dtype.element_ty), mask=exists)
