"""Triton kernels of the activation mix: bias, GELU, softmax, mask and sum in one read of each tensor and one write."""

from __future__ import annotations

import triton
import triton.language as tl

from tove_kernels.gating.triton_gating import ALL_ON, locate, shares, store_logits_gradient, switched_on, weights

ROOT_HALF = tl.constexpr(0.7071067811865476)
ROOT_TWO_PI = tl.constexpr(2.5066282746310002)


@triton.jit
def _biases(bias, cols, K: tl.constexpr, H: tl.constexpr, BIAS: tl.constexpr, ACC: tl.constexpr):
    """Return each expert's bias as a row [1, columns]; nothing where there is none."""
    found = ()
    if BIAS:
        for k in tl.static_range(K):
            found = found + (tl.load(bias[k] + cols, mask=cols < H, other=0.0).to(ACC)[None, :],)
    return found


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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write out [rows, H] and the weights [rows, K]; grid (row blocks, column blocks)."""
    row, image, token, exists = locate(tl.program_id(0) * ROWS, rows, tokens, ROWS)
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = exists[:, None]
    if H % COLUMNS != 0:
        inside = inside & (cols < H)[None, :]
    on = switched_on(mask, row, image, exists, K, MASK)
    parts = shares(logits, on, row, exists, K, E, ACTIVATION, RENORMALISE, MASK, ROWS, ACC)
    gates = weights(parts, on, K, MASK)
    shifts = _biases(bias, cols, K, H, BIAS, ACC)
    total = tl.full([ROWS, COLUMNS], 0.0, ACC)
    for k in tl.static_range(K):
        offset = (image * h_image[k] + token * h_token[k])[:, None] + cols[None, :]
        x = tl.load(hidden[k] + offset, mask=inside & on[k][:, None], other=0.0).to(ACC)
        if BIAS:
            x += shifts[k]
        if MASK != ALL_ON:
            x = tl.where(on[k][:, None], x, 0.0)
        total += gates[k][:, None] * (0.5 * x * (1.0 + tl.erf(x * ROOT_HALF)))
    tl.store(out + row[:, None] * H + cols[None, :], total.to(out.dtype.element_ty), mask=inside)
    if tl.program_id(1) == 0:
        for k in tl.static_range(K):
            tl.store(out_weights + row * K + k, gates[k], mask=exists)


@triton.jit(do_not_specialize=["rows", "tokens", "span"])
def backward(
    grad,
    hidden,
    of_hidden,
    bias,
    logits,
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
    E: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RENORMALISE: tl.constexpr,
    MASK: tl.constexpr,
    OF_LOGITS: tl.constexpr,
    OF_BIAS: tl.constexpr,
    OF_HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write the gradients of the hidden tensors, and what those of logits and biases are summed from.

    Grid (spans of rows, column blocks). A program walks down its span in its columns and holds the sums of the bias
    gradients in registers; it writes them to its own row of `of_bias` [spans, K, H], and the dot products over its
    columns to `dots` [column blocks, rows, K]: no two programs write to one place, so every run sums alike.
    """
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    shifts = _biases(bias, cols, K, H, BIAS, ACC)
    sums = ()
    if OF_BIAS:
        for _ in tl.static_range(K):
            sums = sums + (tl.full([ROWS, COLUMNS], 0.0, ACC),)
    first = tl.program_id(0) * span
    for start in range(first, tl.minimum(first + span, rows), ROWS):
        row, image, token, exists = locate(start, rows, tokens, ROWS)
        inside = exists[:, None]
        if H % COLUMNS != 0:
            inside = inside & (cols < H)[None, :]
        on = switched_on(mask, row, image, exists, K, MASK)
        parts = shares(logits, on, row, exists, K, E, ACTIVATION, RENORMALISE, MASK, ROWS, ACC)
        gates = weights(parts, on, K, MASK)
        g = tl.load(grad + (image * g_image + token * g_token)[:, None] + cols[None, :], mask=inside, other=0.0).to(ACC)
        found = ()
        for k in tl.static_range(K):
            offset = (image * h_image[k] + token * h_token[k])[:, None] + cols[None, :]
            x = tl.load(hidden[k] + offset, mask=inside & on[k][:, None], other=0.0).to(ACC)
            if BIAS:
                x += shifts[k]
            if MASK != ALL_ON:
                x = tl.where(on[k][:, None], x, 0.0)
            phi = 0.5 * (1.0 + tl.erf(x * ROOT_HALF))
            if OF_LOGITS:
                dot = tl.sum(g * x * phi, axis=1)
                where = dots + (tl.program_id(1).to(tl.int64) * rows + row) * K + k
                tl.store(where, dot, mask=exists)
            if OF_HIDDEN or OF_BIAS:
                inner = gates[k][:, None] * g * (phi + x * tl.exp(-0.5 * x * x) / ROOT_TWO_PI)
                if MASK != ALL_ON:
                    inner = tl.where(on[k][:, None], inner, 0.0)
                if OF_HIDDEN:
                    where = of_hidden[k] + (row * H)[:, None] + cols[None, :]
                    tl.store(where, inner.to(of_hidden[k].dtype.element_ty), mask=inside)
                if OF_BIAS:
                    found = found + (sums[k] + inner,)
        if OF_BIAS:
            sums = found
    if OF_BIAS:
        for k in tl.static_range(K):
            where = of_bias + (tl.program_id(0).to(tl.int64) * K + k) * H + cols
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
