"""The figures to reach, and whether a run reaches them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tove_kernels.choice import VARIABLE

from kernel_bench.mixes import ON_CPU, REFERENCE
from kernel_bench.table import Row
from kernel_bench.workload import TOVE, TOVE_COMPILED


@dataclass(frozen=True)
class Verdict:
    """A target, what was seen, and whether that is enough; None where nothing was measured."""

    target: str
    seen: str
    reached: bool | None

    def __str__(self) -> str:
        word = {True: "pass", False: "FAIL", None: "not measured"}[self.reached]
        return f"{word}: {self.target} ({self.seen})"


def verdicts(rows: Sequence[Row], device: str) -> list[Verdict]:
    """Compare rows with the targets of a type of device, `cuda` or `cpu`."""
    if device == "cpu":
        return list(_on_cpu(rows))
    names = sorted({row.device for row in rows})
    found = []
    for name in names:  # a device is compared with itself
        mine = _on_gpu([row for row in rows if row.device == name])
        found += [replace(one, target=f"{one.target}, on {name}") for one in mine] if len(names) > 1 else mine
    return found


def _on_gpu(rows: Sequence[Row]) -> Iterator[Verdict]:
    for operator in ("gated_mix", "gated_activation_mix"):
        for direction, share in (("forward", 0.92), ("backward", 0.88)):
            mine = _find(rows, operator, str(REFERENCE), direction, "eager", "tove")
            yield _at_least(f"{operator} {direction} at {share} of the copy rate, {REFERENCE}", mine, "of_copy", share)
    for direction in ("forward", "backward"):
        mine = _find(rows, "gated_mix", str(REFERENCE), direction, "eager", "tove")
        yield _at_least(f"gated_mix {direction} 5 times the eager loop with fp32 gates", mine, "speedup", 5.0)
    yield from _against_compiled(rows, "eager", "at most 3 % slower than the fastest torch.compile", 1.03)
    yield from _against_compiled(rows, "graph", "faster than torch.compile under graph replay", 1.0)
    for mine in _all(rows, "align_tokens", "forward", "eager"):
        if "channels-last" in mine.shape:
            # Where launching takes as long as the work, the share of the copy rate is the kernel's under replay.
            alone = _find(rows, "align_tokens", mine.shape, "forward", "graph", "tove") or mine
            yield _at_least(f"align_tokens at 0.85 of the copy rate, {mine.shape}", alone, "of_copy", 0.85)
        yield _at_least(f"align_tokens 3 times eager, {mine.shape}", mine, "speedup", 3.0)


def _on_cpu(rows: Sequence[Row]) -> Iterator[Verdict]:
    names = (TOVE, TOVE_COMPILED, "torch.compile of the loop", "eager loop, fp32 gates")
    mine, fused, compiled, eager = (_find(rows, "gated_mix", str(ON_CPU), "forward", "eager", name) for name in names)
    for one, how in ((mine, ""), (fused, f" with {VARIABLE}=compiled")):
        target = f"gated_mix forward{how} within 10 % of torch.compile's loop"
        if one is not None and _wrong(one):
            yield Verdict(target, one.status, False)
            continue
        least, median = _ratios(one, compiled)
        yield Verdict(target, _both(least, median), None if least is None else least <= 1.10)
    least, median = _ratios(eager, mine)
    reached = False if _wrong(mine) else None if least is None else least >= 2
    yield Verdict("gated_mix forward at least 2 times the eager loop", _both(least, median), reached)


def _against_compiled(rows: Sequence[Row], mode: str, what: str, most: float) -> Iterator[Verdict]:
    for operator in ("gated_mix", "gated_activation_mix", "align_tokens"):
        for mine in [row for row in rows if (row.operator, row.mode, row.form) == (operator, mode, "tove")]:
            others = [r.ms_p50 for r in rows if r.key == mine.key and r.form.startswith("torch.compile") and r.ms_p50]
            best = min(others, default=None)
            yield _within(f"{operator} {mine.direction} {what}, {mine.shape}", mine, best, most)


def _find(rows: Sequence[Row], *wanted: str) -> Row | None:
    return next((r for r in rows if (r.operator, r.shape, r.direction, r.mode, r.form) == wanted), None)


def _all(rows: Sequence[Row], operator: str, direction: str, mode: str) -> list[Row]:
    wanted = (operator, direction, mode, "tove")
    return [row for row in rows if (row.operator, row.direction, row.mode, row.form) == wanted]


def _ratios(one: Row | None, other: Row | None) -> tuple[float | None, float | None]:
    """Return one row's time over the other's, of the least times and of the medians."""
    if not (one and other and one.ms_least and other.ms_least and one.ms_p50 and other.ms_p50):
        return None, None
    return one.ms_least / other.ms_least, one.ms_p50 / other.ms_p50


def _both(least: float | None, median: float | None) -> str:
    return "no figure" if least is None else f"{_figure(least)} of least times, {_figure(median)} of medians"


def _at_least(target: str, row: Row | None, column: str, least: float) -> Verdict:
    if _wrong(row):
        return Verdict(target, row.status, False)  # type: ignore[union-attr]  # a row that is wrong is there
    value = getattr(row, column) if row else None
    return Verdict(target, _figure(value), None if value is None else value >= least)


def _wrong(row: Row | None) -> bool:
    """Tell whether a form was to be measured and could not be: that is a target missed, not one left open."""
    return row is not None and row.status.startswith(("refused", "failed"))


def _within(target: str, row: Row, other: float | None, most: float) -> Verdict:
    if _wrong(row):
        return Verdict(target, row.status, False)
    ratio = row.ms_p50 / other if row.ms_p50 and other else None
    return Verdict(target, _figure(ratio), None if ratio is None else ratio <= most)


def _figure(value: float | None) -> str:
    return "no figure" if value is None else f"{value:.3g}"
