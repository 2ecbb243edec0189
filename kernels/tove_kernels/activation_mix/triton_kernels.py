"""Triton kernels of the activation mix: bias, GELU, softmax, mask and sum in one read of each tensor and one write."""

# Triton's language is not Python to a type checker: it indexes functions and iterates over static_range.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl

from tove_kernels.gating.triton_gating import (
    ALL_ON,
    block_of,
    locate,
    shares,
    store_logits_gradient,
    switched_on,
    weights,
)


@triton.jit
def _tail(a, SHORT: tl.constexpr):
    """Return Φ(-a) of the normal distribution in float32, a >= 0.

    Φ(-a) = 2**(-1 + a P(a)), P fitted to erfc over 0 <= a <= 6.5 by reweighted least squares. Of degree 7: off by
    1.4e-8 at most, 5e-8 with what float32 rounds. SHORT is of degree 4: off by 3.5e-7, a hundredth of what 16 bits
    round; instructions, not memory, are what the forward has least of. The library's erf takes twice as many.
    """
    if SHORT:
        p = -0.0005204487937846643 * a + 0.007397465016839022
        p = p * a - 0.05256116745423394
        p = p * a - 0.4592547220285494
        p = p * a - 1.1510913486893526
    else:
        p = -2.8350577849778347e-06 * a + 3.9379152440233156e-05
        p = p * a - 0.00018618599278852344
        p = p * a - 0.00013692503853235394
        p = p * a + 0.0070634083822369576
        p = p * a - 0.05249617248773575
        p = p * a - 0.4592081904411316
        p = p * a - 1.1511051654815674
    return tl.exp2(p * a - 1.0)


@triton.jit
def _cdf(x, SHORT: tl.constexpr, ACC: tl.constexpr):
    """Return Φ(x)."""
    if ACC == tl.float64:  # noqa: SIM300
        found = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        tail = _tail(tl.abs(x), SHORT)
        found = tl.where(x >= 0.0, 1.0 - tail, tail)
    return found


@triton.jit
def _gelu(x, SHORT: tl.constexpr, ACC: tl.constexpr):
    """Return GELU(x) = x Φ(x)."""
    if ACC == tl.float64:  # noqa: SIM300
        found = x * _cdf(x, SHORT, ACC)
    else:
        # The same on both sides of 0, in two instructions instead of four.
        a = tl.abs(x)
        found = tl.maximum(x, 0.0) - a * _tail(a, SHORT)
    return found


@triton.jit
def _density(x):
    """Return φ(x) = exp(-x²/2) / √(2π)."""
    return tl.exp2(x * x * -0.7213475204444817 - 1.3257480647361592)


# Experts whose tiles are asked for at once: eight tiles beside the backward's sums would be more than fit in registers.
TOGETHER = tl.constexpr(4)


@triton.jit
def _loaded(hidden, h_image, h_token, image, token, cols, inside, on, FIRST: tl.constexpr, LAST: tl.constexpr):
    """Return h_k of a block for FIRST <= k < LAST, as it is in memory; rows where an expert is off are not read.

    All are asked for before any is used: what a sum over columns makes the warps wait for each other in is a barrier,
    behind which no load begins, so that one expert's latency would follow the other's.
    """
    found = ()
    for k in tl.static_range(FIRST, LAST):
        offset = (image * h_image[k] + token * h_token[k])[:, None] + cols[None, :]
        found = found + (tl.load(hidden[k] + offset, mask=inside & on[k][:, None], other=0.0),)
    return found


@triton.jit
def _shifted(
    x, bias, cols, on, H: tl.constexpr, BIAS: tl.constexpr, MASK: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr
):
    """Return h + b of a block, 0 where the expert is off."""
    x = x.to(ACC)
    if BIAS:
        # Read again for every block of rows: it is in the cache, and registers are what these kernels lack. Read as a
        # tile, each row the same: a row of its own would be laid out by way of shared memory, with barriers around.
        at = cols[None, :] + tl.zeros([ROWS, 1], tl.int32)
        x += tl.load(bias + at, mask=at < H, other=0.0).to(ACC)
    if MASK != ALL_ON:
        x = tl.where(on[:, None], x, 0.0)
    return x


@triton.jit(do_not_specialize=["rows", "tokens"])
def forward(
    hidden,
    bias,
    logits,
    mask,
    out,
    out_weights,
    rows,
    tokens,
    h_image,
    h_token,
    H: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RENORMALISE: tl.constexpr,
    MASK: tl.constexpr,
    SHORT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write out [rows, H] and the weights [rows, K]; grid (row blocks * column blocks,)."""
    down, across = block_of(H, COLUMNS)
    row, image, token, exists = locate(down * ROWS, rows, tokens, ROWS)
    cols = across * COLUMNS + tl.arange(0, COLUMNS)
    inside = exists[:, None]
    if H % COLUMNS != 0:
        inside = inside & (cols < H)[None, :]
    on = switched_on(mask, row, image, exists, K, MASK)
    tiles = _loaded(hidden, h_image, h_token, image, token, cols, inside, on, 0, K)
    parts = shares(logits, on, row, exists, K, E, ACTIVATION, RENORMALISE, MASK, ROWS, ACC)
    gates = weights(parts, on, K, MASK)
    total = tl.full([ROWS, COLUMNS], 0.0, ACC)
    for k in tl.static_range(K):
        x = _shifted(tiles[k], bias[k], cols, on[k], H, BIAS, MASK, ROWS, ACC)
        total += gates[k][:, None] * _gelu(x, SHORT, ACC)
    tl.store(out + row[:, None] * H + cols[None, :], total.to(out.dtype.element_ty), mask=inside)
    if across == 0:
        for k in tl.static_range(K):
            tl.store(out_weights + row * K + k, gates[k], mask=exists)


@triton.jit(do_not_specialize=["rows", "tokens", "span"])
def backward(
    grad,
    hidden,
    of_hidden,
    bias,
    gates,
    mask,
    dots,
    of_bias,
    rows,
    tokens,
    span,
    g_image,
    g_token,
    h_image,
    h_token,
    H: tl.constexpr,
    K: tl.constexpr,
    K2: tl.constexpr,
    BIAS: tl.constexpr,
    MASK: tl.constexpr,
    OF_LOGITS: tl.constexpr,
    OF_BIAS: tl.constexpr,
    OF_HIDDEN: tl.constexpr,
    SHORT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write the gradients of the hidden tensors, and what those of logits and biases are summed from.

    `gates` [rows, K] are the weights that the forward wrote. Grid (spans of rows * column blocks,): a program walks
    down its span in its columns and holds the sums of the bias gradients in registers; it writes them to its own row of
    `of_bias` [spans, K, H], and the dot products over its columns to `dots` [column blocks, rows, K]. No two programs
    write to one place, so every run sums alike. K2 is the power of two from K: the products of all experts are one
    [ROWS, K2] tensor, written at once.
    """
    down, across = block_of(H, COLUMNS)
    cols = across * COLUMNS + tl.arange(0, COLUMNS)
    place = tl.arange(0, K2)[None, :]
    sums = ()
    if OF_BIAS:
        for _ in tl.static_range(K):
            sums = sums + (tl.full([ROWS, COLUMNS], 0.0, ACC),)
    first = down * span
    for start in range(first, tl.minimum(first + span, rows), ROWS):
        row, image, token, exists = locate(start, rows, tokens, ROWS)
        inside = exists[:, None]
        if H % COLUMNS != 0:
            inside = inside & (cols < H)[None, :]
        on = switched_on(mask, row, image, exists, K, MASK)
        g = tl.load(grad + (image * g_image + token * g_token)[:, None] + cols[None, :], mask=inside, other=0.0).to(ACC)
        products = tl.full([ROWS, K2], 0.0, ACC)
        found = ()
        for lead in tl.static_range(0, K, TOGETHER):
            tiles = _loaded(hidden, h_image, h_token, image, token, cols, inside, on, lead, min(lead + TOGETHER, K))
            mine = ()
            for k in tl.static_range(lead, min(lead + TOGETHER, K)):
                mine = mine + (tl.load(gates + row * K + k, mask=exists, other=0.0),)
            for k in tl.static_range(lead, min(lead + TOGETHER, K)):
                x = _shifted(tiles[k - lead], bias[k], cols, on[k], H, BIAS, MASK, ROWS, ACC)
                cdf = _cdf(x, SHORT, ACC)
                if OF_LOGITS:
                    products = tl.where(place == k, tl.sum(g * x * cdf, axis=1)[:, None], products)
                if OF_HIDDEN or OF_BIAS:
                    inner = mine[k - lead][:, None] * g * (cdf + x * _density(x))
                    if MASK != ALL_ON:
                        inner = tl.where(on[k][:, None], inner, 0.0)
                    if OF_HIDDEN:
                        where = of_hidden[k] + (row * H)[:, None] + cols[None, :]
                        tl.store(where, inner.to(of_hidden[k].dtype.element_ty), mask=inside)
                    if OF_BIAS:
                        found = found + (sums[k] + inner,)
        if OF_LOGITS:
            where = dots + ((across.to(tl.int64) * rows + row) * K)[:, None] + place
            tl.store(where, products, mask=exists[:, None] & (place < K))
        if OF_BIAS:
            sums = found
    if OF_BIAS:
        for k in tl.static_range(K):
            where = of_bias + (down.to(tl.int64) * K + k) * H + cols
            tl.store(where, tl.sum(sums[k], axis=0), mask=cols < H)


@triton.jit(do_not_specialize=["rows", "tokens", "blocks"])
def logits_backward(
    dots,
    of_weights,
    logits,
    mask,
    of_logits,
    rows,
    tokens,
    blocks,
    K: tl.constexpr,
    E: tl.constexpr,
    OF_WEIGHTS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RENORMALISE: tl.constexpr,
    MASK: tl.constexpr,
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sum `dots` [column blocks, rows, K] and write the gradient of the logits; grid (row blocks,)."""
    row, image, _, exists = locate(tl.program_id(0) * ROWS, rows, tokens, ROWS)
    on = switched_on(mask, row, image, exists, K, MASK)
    parts = shares(logits, on, row, exists, K, E, ACTIVATION, RENORMALISE, MASK, ROWS, ACC)
    found = ()
    for k in tl.static_range(K):
        total = tl.full([ROWS], 0.0, ACC)
        if OF_WEIGHTS:
            total = tl.load(of_weights + row * K + k, mask=exists, other=0.0).to(ACC)
        for block in range(0, blocks):
            total += tl.load(dots + (block * rows.to(tl.int64) + row) * K + k, mask=exists, other=0.0)
        found = found + (total,)
    store_logits_gradient(of_logits, found, parts, on, row, exists, exists, K, E, ACTIVATION, MASK, ROWS, ACC)
