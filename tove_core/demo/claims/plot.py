"""Pictures of the bench, as SVG: a dot and its seeds per variant, and accuracy against training images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean

WIDTH, LABEL, PLOT, LINE = 860, 250, 540, 20
INK, FAINT = "#222", "#b9c4ca"
COLOURS = ("#7a7a7a", "#1b6e8f", "#b3541e", "#3d7a3d", "#7b4fa3")

Series = Mapping[str, Mapping[int, Sequence[float]]]
"""Values of every seed, by training images, by variant."""


def dots(rows: Mapping[str, Sequence[float]], title: str) -> str:
    """Return a picture of values by name: one small dot a seed and a tall mark at the mean."""
    values = [value for row in rows.values() for value in row]
    low, high = _rounded(min(values), max(values))
    parts = [_text(10, 20, title, bold=True), *_axis(low, high, 34, LINE * len(rows) + 10)]
    for n, (name, row) in enumerate(rows.items()):
        y = 48 + LINE * n
        parts.append(_text(LABEL - 10, y + 4, name, end=True))
        mean = _x(fmean(row), low, high)
        parts.append(f'<rect x="{mean - 1.5:.1f}" y="{y - 7}" width="3" height="14" fill="{COLOURS[1]}"/>')
        parts += [
            f'<circle cx="{_x(v, low, high):.1f}" cy="{y}" r="3" fill="{COLOURS[2]}" opacity="0.6"/>' for v in row
        ]
    return _svg(parts, 70 + LINE * len(rows))


def curves(series: Series, title: str) -> str:
    """Return a picture of mean values against training images, on a logarithmic axis, with a dot for each seed."""
    height, top = 240, 40
    values = [value for rows in series.values() for row in rows.values() for value in row]
    sizes = sorted({size for rows in series.values() for size in rows})
    low, high = _rounded(min(values), max(values))

    def x(size: int) -> float:
        share = math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0]) if len(sizes) > 1 else 0.5
        return LABEL + PLOT * share

    def y(value: float) -> float:
        return top + height * (1 - (value - low) / (high - low))

    parts = [_text(10, 20, title, bold=True)]
    for tick in _ticks(low, high):
        parts.append(f'<line x1="{LABEL}" y1="{y(tick):.1f}" x2="{LABEL + PLOT}" y2="{y(tick):.1f}" stroke="{FAINT}"/>')
        parts.append(_text(LABEL - 10, y(tick) + 4, f"{tick:.2f}", end=True))
    parts += [_text(x(size), top + height + 18, str(size), middle=True) for size in sizes]
    parts.append(_text(LABEL + PLOT / 2, top + height + 36, "training images", middle=True))
    for n, (name, rows) in enumerate(series.items()):
        colour = COLOURS[n % len(COLOURS)]
        points = " ".join(f"{x(size):.1f},{y(fmean(rows[size])):.1f}" for size in sorted(rows))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for size, row in rows.items()
            for value in row
        ]
        parts.append(_text(20, top + 14 + LINE * n, name, colour=colour, bold=True))
    return _svg(parts, top + height + 50)


def _x(value: float, low: float, high: float) -> float:
    return LABEL + PLOT * (value - low) / (high - low)


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Return the range in whole twentieths, never empty."""
    return math.floor(low * 20) / 20, max(math.ceil(high * 20) / 20, math.floor(low * 20) / 20 + 0.05)


def _ticks(low: float, high: float) -> list[float]:
    step = 0.05 if high - low <= 0.4 else 0.1
    return [round(low + step * n, 3) for n in range(round((high - low) / step) + 1)]


def _axis(low: float, high: float, y: float, height: float) -> list[str]:
    found = []
    for tick in _ticks(low, high):
        x = _x(tick, low, high)
        found.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + height}" stroke="{FAINT}"/>')
        found.append(_text(x, y + height + 16, f"{tick:.2f}", middle=True))
    return found


def _text(
    x: float, y: float, text: str, *, bold: bool = False, end: bool = False, middle: bool = False, colour: str = INK
) -> str:
    more = ' font-weight="bold"' if bold else ""
    more += ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{more}>{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float) -> str:
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    ground = f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, ground, '<g font-family="sans-serif" font-size="12">', *parts, "</g>", "</svg>", ""])
