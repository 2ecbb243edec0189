"""Draw the share of the copy rate that each form reaches, as an SVG of bars."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from kernel_bench.table import Row

WIDTH, LABEL, BAR, LINE = 860, 300, 380, 18
OURS, OTHERS, INK = "#1b6e8f", "#b9c4ca", "#222"


def plot(rows: Sequence[Row]) -> str:
    """Return an SVG of the measured rows, a block of bars for each operator, shape, direction and mode."""
    parts: list[str] = []
    y = 10
    measured = [row for row in rows if row.of_copy is not None]
    most = max((row.of_copy or 0.0 for row in measured), default=1.0)
    scale = BAR / max(most, 1.0)
    for (device, *key), some in groupby(measured, lambda row: (row.device, *row.key)):
        y += LINE
        title = " ".join(key[:3]) + (" (graph replay)" if key[3] == "graph" else "") + f", {device}"
        parts.append(_text(10, y, title, bold=True))
        for row in some:
            y += LINE
            length = scale * (row.of_copy or 0.0)
            colour = OURS if row.form == "tove" else OTHERS
            parts.append(_text(LABEL - 8, y, row.form, end=True))
            parts.append(f'<rect x="{LABEL}" y="{y - 12}" width="{length:.1f}" height="14" fill="{colour}"/>')
            time = f"{row.of_copy:.2f}, {row.ms_p50 if row.device != 'CPU' else row.ms_least:.3g} ms"
            parts.append(_text(LABEL + length + 6, y, time))
        y += 8
    line = LABEL + scale
    mark = f'<line x1="{line:.1f}" y1="8" x2="{line:.1f}" y2="{y + 4}" stroke="{INK}" stroke-dasharray="3 3"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 12}" viewBox="0 0 {WIDTH} {y + 12}">'
    style = f'<g font-family="sans-serif" font-size="12" fill="{INK}">'
    ground = f'<rect width="{WIDTH}" height="{y + 12}" fill="white"/>'
    return "\n".join([head, ground, style, *parts, mark, "</g>", "</svg>", ""])


def _text(x: float, y: float, text: str, *, bold: bool = False, end: bool = False) -> str:
    more = (' font-weight="bold"' if bold else "") + (' text-anchor="end"' if end else "")
    return f'<text x="{x:.1f}" y="{y}"{more}>{escape(text)}</text>'
