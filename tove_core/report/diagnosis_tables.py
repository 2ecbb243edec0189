"""The tables of a diagnosis: scores of both runs by kind, what each expert's absence costs, and the gate's shares."""

from __future__ import annotations

from collections.abc import Callable

from tove_core.evaluation.diagnosis import Change, Diagnosis, Effect, Part, Row
from tove_core.report.page import Cell, escape, table, tag

_WIDTH, _HEIGHT, _MARGIN = 170, 18, 6
"""Size of a whisker in pixels."""

_STRONGEST, _FAINTEST = 0.5, 0.12
"""Opacity of the ground of the largest change, where it is clear and where it is not: text on it stays readable."""


def part_section(part: Part, diagnosis: Diagnosis) -> str:
    """Return everything about the questions, or the captions, but for the examples."""
    sections = [tag("h2", f"{what(part).capitalize()} by kind"), _scores(part)]
    if diagnosis.experts:
        head = f"the run with that expert off (rule {diagnosis.rule}) and the others on; above 0: the expert helps"
        scores = f"What {part.metric} loses: {head}. In bold: the 95 % interval leaves 0 out."
        losses = f"What the answer loss gains, in nats per token of the right answer: {head}."
        sections += [
            tag("h3", "What switching an expert off costs"),
            _effects(part, diagnosis, scores, lambda effect: effect.score),
            _effects(part, diagnosis, losses, lambda effect: effect.loss),
        ]
        if all(effect.gate is not None for effect in part.total.experts.values()):
            sections += [tag("h3", "Gate share"), _gates(part, diagnosis)]
    return "".join(sections)


def what(part: Part) -> str:
    """Return what the samples of a part are."""
    return "questions" if part.asks else "captions"


def kind_name(kind: str) -> str:
    """Return what a kind is called where it may have no name."""
    return kind or "(no kind)"


def through_name(row: Row) -> str:
    """Return the expert that a kind is answered through, and whether only the loss says so; nothing without one."""
    found = row.through
    return "" if found is None else found.expert if found.by == "score" else f"{found.expert}, by loss"


def signed(value: float) -> str:
    """Return a number with its sign, three decimals, and a true minus."""
    return f"{value:+.3f}".replace("-", "−")


def _scores(part: Part) -> str:
    reach = [_reach(row.difference) for row in (*part.kinds, part.total)]
    low, high = min(0.0, *(ends[0] for ends in reach)), max(0.0, *(ends[1] for ends in reach))

    def cells(row: Row, name: str) -> list[Cell]:
        change = row.difference
        return [
            Cell(escape(name), name),
            Cell(f"{row.n:,}", row.n),
            Cell(f"{row.run:.3f}", row.run),
            Cell(f"{row.other:.3f}", row.other),
            Cell(_changed(change), change.value),
            Cell(_whisker(change, low, high), change.value),
            Cell(f"{row.better:,}", row.better),
            Cell(f"{row.worse:,}", row.worse),
            Cell(escape(through_name(row) or "–"), through_name(row), kind="text"),
        ]

    heads = ["kind", "n", "run", "other", "run − other", "its 95 % interval", "samples run better",
             "samples other better", "expert that is missed most"]  # fmt: skip
    caption = f"Scores by {part.metric}. Better: samples on which one scores higher than the other."
    return _by_kind(part, caption, heads, cells)


def _effects(part: Part, diagnosis: Diagnosis, caption: str, of: Callable[[Effect], Change]) -> str:
    rows = [*part.kinds, part.total]
    largest = max(abs(of(effect).value) for row in rows for effect in row.experts.values())

    def cells(row: Row, name: str) -> list[Cell]:
        changes = [of(row.experts[expert]) for expert in diagnosis.experts]
        return [
            Cell(escape(name), name),
            *(Cell(_changed(change), change.value, _ground(change, largest), "heat") for change in changes),
        ]

    return _by_kind(part, caption, ["kind", *diagnosis.experts], cells)


def _gates(part: Part, diagnosis: Diagnosis) -> str:
    def cells(row: Row, name: str) -> list[Cell]:
        gates = [row.experts[expert].gate or 0.0 for expert in diagnosis.experts]
        return [Cell(escape(name), name), *(Cell(f"{gate:.3f}", gate) for gate in gates)]

    caption = "Mean gate over the tokens of all samples of a kind; 1 is the weight of equal gates. No measure of use."
    return _by_kind(part, caption, ["kind", *diagnosis.experts], cells)


def _by_kind(part: Part, caption: str, heads: list[str], cells: Callable[[Row, str], list[Cell]]) -> str:
    """Return a table of the kinds and, where there are several, of all samples below them."""
    rows = [cells(row, kind_name(row.kind)) for row in part.kinds]
    return table(caption, heads, rows, foot=cells(part.total, f"all {what(part)}") if len(rows) > 1 else ())


def _changed(change: Change) -> str:
    """Return a difference with its interval below it, in bold where that leaves 0 out."""
    colour = {1: "clear good", -1: "clear bad"}.get(change.sign)
    value = tag("span", signed(change.value), class_=colour)
    if change.low is None or change.high is None:
        return value
    return value + tag("span", f"{signed(change.low)} to {signed(change.high)}", class_="span")


def _ground(change: Change, largest: float) -> str | None:
    """Return the ground of a cell: stronger for what is larger, another colour below 0, faint where it is not clear."""
    if not change.value or not largest:
        return None
    name, most = "good" if change.value > 0 else "bad", _STRONGEST if change.sign else _FAINTEST
    return f"background: rgba(var(--{name}-rgb), {most * abs(change.value) / largest:.2f})"


def _reach(change: Change) -> tuple[float, float]:
    return (change.value if change.low is None else change.low, change.value if change.high is None else change.high)


def _whisker(change: Change, low: float, high: float) -> str:
    """Draw a difference and its interval on the scale of its column, with a line at 0; the number stands beside it."""

    def place(value: float) -> str:
        part = (value - low) / (high - low) if high > low else 0.5
        return f"{_MARGIN + part * (_WIDTH - 2 * _MARGIN):.1f}"

    middle, (first, last) = _HEIGHT / 2, map(place, _reach(change))
    lines = tag("line", x1=place(0), x2=place(0), y1=0, y2=_HEIGHT, class_="zero")
    lines += tag("line", x1=first, x2=last, y1=middle, y2=middle, class_="span-line")
    lines += tag("circle", cx=place(change.value), cy=middle, r=3.5)
    kind = {1: "whisker good", -1: "whisker bad"}.get(change.sign, "whisker")
    return tag("svg", lines, class_=kind, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", aria_hidden="true")
