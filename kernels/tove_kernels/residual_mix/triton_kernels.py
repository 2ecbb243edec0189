"""Triton kernels of the residual mix: softmax, mask, prefix and sum in one read of each tensor and one write."""

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


@triton.jit(do_not_specialize=["rows", "tokens"])
def forward(
    v,
    experts,
    logits,
    mask,
    out,
    rows,
    tokens,
    prefix,
    v_image,
    v_token,
    e_image,
    e_token,
    D: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    PREFIX: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RENORMALISE: tl.constexpr,
    MASK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write out [rows, D]; grid (row blocks * column blocks,). `experts` and their strides are tuples of K."""
    down, across = block_of(D, COLUMNS)
    row, image, token, exists = locate(down * ROWS, rows, tokens, ROWS)
    cols = across * COLUMNS + tl.arange(0, COLUMNS)
    inside = exists[:, None]
    if D % COLUMNS != 0:
        inside = inside & (cols < D)[None, :]
    on = switched_on(mask, row, image, exists, K, MASK)
    parts = shares(logits, on, row, exists, K, E, ACTIVATION, RENORMALISE, MASK, ROWS, ACC)
    gates = weights(parts, on, K, MASK)
    total = tl.load(v + (image * v_image + token * v_token)[:, None] + cols[None, :], mask=inside, other=0.0).to(ACC)
    for k in tl.static_range(K):
        live = on[k]
        if PREFIX:
            live = live & (token >= prefix)
        offset = (image * e_image[k] + (token - prefix) * e_token[k])[:, None] + cols[None, :]
        x = tl.load(experts[k] + offset, mask=inside & live[:, None], other=0.0).to(ACC)
        if PREFIX or MASK != ALL_ON:
            # Left as it is, not added 0 to: that would turn -0.0 into 0.0.
            total = tl.where(live[:, None], total + gates[k][:, None] * x, total)
        else:
            total += gates[k][:, None] * x
    tl.store(out + row[:, None] * D + cols[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "tokens"])
def backward(
    grad,
    experts,
    of_experts,
    logits,
    mask,
    of_logits,
    rows,
    tokens,
    prefix,
    g_image,
    g_token,
    e_image,
    e_token,
    D: tl.constexpr,
    K: tl.constexpr,
    K2: tl.constexpr,
    E: tl.constexpr,
    PREFIX: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RENORMALISE: tl.constexpr,
    MASK: tl.constexpr,
    OF_LOGITS: tl.constexpr,
    OF_EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write the gradients of logits [rows, E] and experts; grid (row blocks,): a program owns whole rows.

    K2 is the power of two from K: <grad, e_k> of all experts is one [ROWS, K2] tensor, for a loop carries it easily.
    """
    row, image, token, exists = locate(tl.program_id(0) * ROWS, rows, tokens, ROWS)
    live = exists
    if PREFIX:
        live = live & (token >= prefix)
    on = switched_on(mask, row, image, exists, K, MASK)
    parts = shares(logits, on, row, exists, K, E, ACTIVATION, RENORMALISE, MASK, ROWS, ACC)
    gates = weights(parts, on, K, MASK)
    place = tl.arange(0, K2)[None, :]
    dots = tl.full([ROWS, K2], 0.0, ACC)
    # Gradients of experts are contiguous [B, N - prefix, D].
    target = (image * (tokens - prefix) + (token - prefix)) * D
    for start in range(0, D, COLUMNS):
        cols = start + tl.arange(0, COLUMNS)
        inside = live[:, None]
        if D % COLUMNS != 0:
            inside = inside & (cols < D)[None, :]
        g = tl.load(grad + (image * g_image + token * g_token)[:, None] + cols[None, :], mask=inside, other=0.0).to(ACC)
        for k in tl.static_range(K):
            if OF_LOGITS:
                offset = (image * e_image[k] + (token - prefix) * e_token[k])[:, None] + cols[None, :]
                x = tl.load(experts[k] + offset, mask=inside & on[k][:, None], other=0.0).to(ACC)
                dots += tl.where(place == k, tl.sum(g * x, axis=1)[:, None], 0.0)
            if OF_EXPERTS:
                scaled = gates[k][:, None] * g
                if MASK != ALL_ON:
                    scaled = tl.where(on[k][:, None], scaled, 0.0)
                where = of_experts[k] + target[:, None] + cols[None, :]
                tl.store(where, scaled.to(of_experts[k].dtype.element_ty), mask=inside)
    if OF_LOGITS:
        found = ()
        for k in tl.static_range(K):
            found = found + (tl.sum(tl.where(place == k, dots, 0.0), axis=1),)
        store_logits_gradient(of_logits, found, parts, on, row, exists, live, K, E, ACTIVATION, MASK, ROWS, ACC)
