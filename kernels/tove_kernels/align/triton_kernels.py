"""Triton kernels of token alignment: statistics per position, resample and fold, and normalise rows in place of both.

A tile is a block of fine cells times a block of channels. Loads run along the axis that is dense in memory, channels
(channels-last) or columns (NCHW); stores always along the tokens' channels.
"""

# Triton's language is not Python to a type checker: it iterates over static_range, and tuples grow.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(base, cells, cell_on, channels, channel_on, stride_c, CHANNELS_LAST: tl.constexpr):
    # [cells, channels]; the memory's dense axis is the tile's last one when it is loaded.
    if CHANNELS_LAST:
        at = base + cells[:, None] + channels[None, :] * stride_c
        x = tl.load(at, mask=cell_on[:, None] & channel_on[None, :], other=0.0)
    else:
        at = base + channels[:, None] * stride_c + cells[None, :]
        x = tl.trans(tl.load(at, mask=channel_on[:, None] & cell_on[None, :], other=0.0))
    return x


@triton.jit
def _mean(total, count, ACC: tl.constexpr):
    """Return total / count, rounded once: `/` is two units off on a GPU, which a large mean makes much of."""
    count = tl.full(total.shape, 0.0, ACC) + count
    return total / count if ACC == tl.float64 else tl.div_rn(total, count)  # noqa: SIM300


@triton.jit
def position_statistics(
    maps, means, scales, cells, columns, stride_b, stride_c, stride_h, stride_w, eps,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, FLAT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / sqrt(variance + eps) over the channels of each position: means, scales [B, h * w].

    Blocks of channels are merged by Chan's rule, so that one read is enough and a large mean costs no digits.
    """
    blocks = tl.cdiv(cells, BLOCK_T)
    sample = tl.program_id(0) // blocks
    cell = (tl.program_id(0) - sample * blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    on = cell < cells
    if FLAT:
        at = cell.to(tl.int64) * stride_w
    else:
        at = (cell // columns).to(tl.int64) * stride_h + (cell % columns).to(tl.int64) * stride_w
    base = maps + sample.to(tl.int64) * stride_b
    mean = tl.zeros([BLOCK_T], ACC)
    spread = tl.zeros([BLOCK_T], ACC)
    for first in range(0, C, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        channel_on = channel < C
        x = _load(base, at, on, channel.to(tl.int64), channel_on, stride_c, CHANNELS_LAST).to(ACC)
        count = tl.minimum(C - first, BLOCK_C).to(ACC)
        here = _mean(tl.sum(x, 1), count, ACC)
        centred = tl.where(channel_on[None, :], x - here[:, None], 0.0)
        step = here - mean
        total = count + first
        spread += tl.sum(centred * centred, 1) + step * step * (count * first / total)
        mean += step * (count / total)
    to = sample.to(tl.int64) * cells + cell
    tl.store(means + to, mean, mask=on)
    tl.store(scales + to, 1.0 / tl.sqrt(spread / C + eps), mask=on)


@triton.jit
def normalise_rows(
    maps, out, cells, stride_b, stride_w, eps,
    C: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Position norm where nothing is resampled and channels are dense: a program holds whole rows."""
    blocks = tl.cdiv(cells, BLOCK_T)
    sample = tl.program_id(0) // blocks
    cell = (tl.program_id(0) - sample * blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)
    on = (cell < cells)[:, None] & (channel < C)[None, :]
    at = sample.to(tl.int64) * stride_b + cell.to(tl.int64) * stride_w
    x = tl.load(maps + at[:, None] + channel[None, :], mask=on, other=0.0).to(ACC)
    centred = tl.where(on, x - _mean(tl.sum(x, 1), C, ACC)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + eps)
    to = (sample.to(tl.int64) * cells + cell) * C
    tl.store(out + to[:, None] + channel[None, :], (centred * scale[:, None]).to(out.dtype.element_ty), mask=on)


@triton.jit
def _sample(place, count, NORM: tl.constexpr):
    # Behind `position_statistics` from the last sample to the first: what it read last may still be in the cache.
    return count - 1 - place if NORM == 1 else place


@triton.jit
def _source(fine, tap, starts, weights, on, TAPS: tl.constexpr, ACC: tl.constexpr):
    # One tap of each fine cell: its source cell, its weight and whether it counts. Without taps the axis is kept, and
    # the mask stays free of loaded values: Triton then sees whole vectors in it.
    if TAPS == 0:
        cell = fine
        weight = tl.full([1], 1.0, ACC)
        live = on
    else:
        cell = tl.load(starts + fine, mask=on, other=0) + tap
        weight = tl.load(weights + fine * TAPS + tap, mask=on, other=0.0)
        live = weight != 0.0
    return cell, weight, live


@triton.jit
def _add_tap(
    total, row, column, weight, on, maps, base, channel, channel_on, first, scale, position, columns,
    stride_c, stride_h, stride_w, NORM: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    at = row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    x = _load(maps + base, at, on, channel, channel_on, stride_c, CHANNELS_LAST).to(ACC)
    if NORM == 1:  # position: first and scale are [B, h * w]
        cell = position + row * columns + column
        x = x - tl.load(first + cell, mask=on, other=0.0)[:, None]
        weight = weight * tl.load(scale + cell, mask=on, other=0.0)
    elif NORM == 2:  # fixed: first is [C], already loaded; the spread is divided by at the end
        x = x - first[None, :]
    return total + weight[:, None] * x


@triton.jit
def resample_fold(
    maps, out, row_starts, row_weights, column_starts, column_weights, first, second,
    grid_rows, grid_columns, rows, columns, stride_b, stride_c, stride_h, stride_w,
    C: tl.constexpr, FOLD: tl.constexpr, CELLS: tl.constexpr, ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr,
    NORM: tl.constexpr, CHANNELS_LAST: tl.constexpr, UNROLLED: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Resample to FOLD times the grid and fold: out [B, N, C * FOLD * FOLD].

    CELLS is FOLD * FOLD padded to a power of 2.
    NORM 0: none; 1: position, by the means and scales of `position_statistics`; 2: fixed, mean and std [C].
    Programs run over channel blocks first, then columns, rows and samples, so that neighbours share cells in L2.
    """
    channel_blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    across = tl.cdiv(grid_columns, BLOCK_W)
    down = tl.cdiv(grid_rows, BLOCK_H)
    place = tl.program_id(0) // channel_blocks
    first_channel = (tl.program_id(0) % channel_blocks) * BLOCK_C
    channel32 = first_channel + tl.arange(0, BLOCK_C)
    sample = place // (across * down)
    place = place - sample * (across * down)
    sample = _sample(sample, tl.num_programs(0) // (channel_blocks * across * down), NORM)
    token_row = (place // across) * BLOCK_H
    token_column = (place % across) * BLOCK_W

    fine = tl.arange(0, BLOCK_H * BLOCK_W * CELLS)
    token, cell = fine // CELLS, fine % CELLS
    i, j = token_row + token // BLOCK_W, token_column + token % BLOCK_W
    on = (i < grid_rows) & (j < grid_columns)
    if CELLS != FOLD * FOLD:
        on = on & (cell < FOLD * FOLD)
    y, x = i * FOLD + cell // FOLD, j * FOLD + cell % FOLD

    channel_on = channel32 < C
    channel = channel32.to(tl.int64)
    base = sample.to(tl.int64) * stride_b
    position = sample.to(tl.int64) * (rows * columns)
    if NORM == 2:
        shift = tl.load(first + channel32, mask=channel_on, other=0.0).to(ACC)
    else:
        shift = first
    total = tl.zeros([BLOCK_H * BLOCK_W * CELLS, BLOCK_C], ACC)
    for a in range(max(ROW_TAPS, 1)):
        row, row_weight, row_on = _source(y, a, row_starts, row_weights, on, ROW_TAPS, ACC)
        for b in tl.range(0, max(COLUMN_TAPS, 1), loop_unroll_factor=UNROLLED):  # type: ignore[misc]  # triton's own loop
            column, weight, column_on = _source(x, b, column_starts, column_weights, on, COLUMN_TAPS, ACC)
            total = _add_tap(
                total, row, column, row_weight * weight, row_on & column_on, maps, base, channel, channel_on, shift,
                second, position, columns, stride_c, stride_h, stride_w, NORM, CHANNELS_LAST, ACC,
            )  # fmt: skip
    if NORM == 2:
        total = total / tl.load(second + channel32, mask=channel_on, other=1.0).to(ACC)[None, :]
    _store_folded(
        out, total, sample, token_row, token_column, first_channel, grid_rows, grid_columns,
        C, FOLD, CELLS, BLOCK_H, BLOCK_W, BLOCK_C,
    )  # fmt: skip


@triton.jit
def shrink_rows(
    maps, out, row_starts, row_ends, row_weights, column_starts, column_weights, first, second,
    grid_rows, grid_columns, columns, strip, cells, stride_b, stride_c, stride_h, stride_w,
    C: tl.constexpr, ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr, NORM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Resample to a grid of fewer rows, not folded: out [B, N, C]. A program walks down a strip of the grid's rows.

    Each row of the map is resampled across once and added to the two rows of the grid that it counts for, where
    `resample_fold` resamples it again for both. NORM as there. `cells` is rows * columns of the map.
    """
    channel_blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    count: tl.constexpr = COLUMN_TAPS if COLUMN_TAPS > 0 else 1
    across = tl.cdiv(grid_columns, BLOCK_W)
    strips = tl.cdiv(grid_rows, strip)
    place = tl.program_id(0) // channel_blocks
    channel32 = (tl.program_id(0) % channel_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel_on, channel = channel32 < C, channel32.to(tl.int64)
    sample = place // (across * strips)
    place = place - sample * (across * strips)
    sample = _sample(sample, tl.num_programs(0) // (channel_blocks * across * strips), NORM)
    top = (place // across) * strip
    bottom = tl.minimum(top + strip, grid_rows)
    x = (place % across) * BLOCK_W + tl.arange(0, BLOCK_W)
    on = x < grid_columns
    taps = ()
    for b in tl.static_range(count):
        taps = taps + (_source(x, b, column_starts, column_weights, on, COLUMN_TAPS, ACC),)

    base = sample.to(tl.int64) * stride_b
    position = sample.to(tl.int64) * cells
    if NORM == 2:
        shift = tl.load(first + channel32, mask=channel_on, other=0.0).to(ACC)
        spread = tl.load(second + channel32, mask=channel_on, other=1.0).to(ACC)
    else:
        shift = first
    here = tl.zeros([BLOCK_W, BLOCK_C], ACC)
    below = tl.zeros([BLOCK_W, BLOCK_C], ACC)
    next_row = tl.load(row_starts + top)
    for i in range(top, bottom):
        start = tl.load(row_starts + i)
        end = tl.load(row_ends + i)
        start_below = tl.load(row_starts + i + 1, mask=i + 1 < bottom, other=end)
        for row in range(next_row, end):
            source = tl.full([1], 0, tl.int32) + row  # a tensor in the interpreter too, whose loops count in Python
            line = tl.zeros([BLOCK_W, BLOCK_C], ACC)
            for b in tl.static_range(count):
                column, weight, live = taps[b]
                line = _add_tap(
                    line, source, column, weight, live, maps, base, channel, channel_on, shift, second, position,
                    columns, stride_c, stride_h, stride_w, NORM, CHANNELS_LAST, ACC,
                )  # fmt: skip
            here += tl.load(row_weights + i * ROW_TAPS + row - start) * line
            tap = row - start_below
            below += tl.load(row_weights + (i + 1) * ROW_TAPS + tap, mask=tap >= 0, other=0.0) * line
        next_row = end
        values = here / spread[None, :] if NORM == 2 else here
        to = ((sample.to(tl.int64) * grid_rows + i) * grid_columns + x) * C
        tl.store(
            out + to[:, None] + channel[None, :],
            values.to(out.dtype.element_ty),
            mask=on[:, None] & channel_on[None, :],
        )
        here = below
        below = tl.zeros([BLOCK_W, BLOCK_C], ACC)


@triton.jit
def _store_folded(
    out, total, sample, token_row, token_column, first_channel, grid_rows, grid_columns,
    C: tl.constexpr, FOLD: tl.constexpr, CELLS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # [tokens * cells, channels] to rows of C * FOLD * FOLD, channel first: one dense run per token.
    token = tl.arange(0, BLOCK_H * BLOCK_W)
    i, j = token_row + token // BLOCK_W, token_column + token % BLOCK_W
    on = (i < grid_rows) & (j < grid_columns)
    to = ((sample.to(tl.int64) * grid_rows + i) * grid_columns + j) * (C * FOLD * FOLD)
    channel = first_channel + tl.arange(0, BLOCK_C)
    values = total.to(out.dtype.element_ty)
    if CELLS == 1:
        tl.store(out + to[:, None] + channel[None, :], values, mask=on[:, None] & (channel < C)[None, :])
    else:
        values = tl.permute(tl.reshape(values, [BLOCK_H * BLOCK_W, CELLS, BLOCK_C]), [0, 2, 1])
        if CELLS == FOLD * FOLD:
            values = tl.reshape(values, [BLOCK_H * BLOCK_W, BLOCK_C * CELLS])
            run = first_channel * CELLS + tl.arange(0, BLOCK_C * CELLS)
            tl.store(out + to[:, None] + run[None, :], values, mask=on[:, None] & (run < C * CELLS)[None, :])
        else:
            cell = tl.arange(0, CELLS)
            at = to[:, None, None] + channel[None, :, None] * (FOLD * FOLD) + cell[None, None, :]
            ok = on[:, None, None] & (channel < C)[None, :, None] & (cell < FOLD * FOLD)[None, None, :]
            tl.store(out + at, values, mask=ok)
