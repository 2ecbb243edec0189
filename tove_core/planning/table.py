"""A plan as text for people. No torch."""

from __future__ import annotations

from tove_core.planning.figures import PARTIAL, Figure, Part, Plan

HEAD = ("part", "params", "download", "weights", "running", "GFLOP", "licence", "commercial")
_YES = {True: "yes", False: "no", None: "unknown"}


def render(plan: Plan) -> str:
    """Return an aligned table with a total, then memory, licences, and what is unknown and why."""
    rows = [HEAD, *map(_row, plan.parts)]
    main = plan.memory[None]
    rows.append(("total", _count(plan.params), byte_text(plan.download), "", "", _giga(plan.flops), "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    purpose = "training" if plan.training else "inference"
    at_once = "1 image" if plan.batch == 1 else f"{plan.batch} images"
    lines += ["", f"memory for {purpose}, {at_once} at a time: {byte_text(main)}"]
    lines += [f"  on {device} besides: {byte_text(need)}" for device, need in plan.memory.items() if device]
    if plan.run is not None:
        from tove_core.planning.run_table import render_run

        lines += ["", *render_run(plan.run)]
    lines += ["", *_licences(plan)]
    if plan.refused:
        lines += ["refused by the licence policy:", *(f"  {line}" for line in plan.refused.splitlines())]
    if notes := [*plan.notes, *_unknown(plan)]:
        lines += ["", *notes]
    return "\n".join(lines)


def _row(part: Part) -> tuple[str, ...]:
    label = part.part if part.part == "fusion" else f"{part.part} {part.name}"
    licence = part.license or ("unknown" if part.stored else "-")
    commercial = _YES[part.commercial] if part.stored or part.commercial else "-"
    sizes = (byte_text(part.download), byte_text(part.weights), byte_text(part.activations))
    return (label, _count(part.params), *sizes, _giga(part.flops), licence, commercial)


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    numbers = range(1, 6)
    return [cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip


def _licences(plan: Plan) -> list[str]:
    experts = [part for part in plan.parts if part.part == "expert" and part.stored]
    lines = []
    if experts:
        lines.append(f"licences of the experts: {', '.join(plan.licenses)}; commercial use: {_YES[plan.commercial]}")
        if plan.commercial is not True:
            open_ones = [part for part in experts if part.commercial is not True]
            lines += [f"  expert {part.name}: {part.license}, {_YES[part.commercial]}" for part in open_ones]
    models = [part for part in plan.parts if part.part in ("clip", "decoder")]
    others = [f"{part.part} {part.name}" for part in models if part.license is None]
    if others:
        lines.append(f"not known to tove, so read their terms: {', '.join(others)}")
    lines += [
        f"expert {part.name} is gated: accept the licence on https://huggingface.co/{repo}, then 'hf auth login'"
        for part in plan.parts
        for repo in part.gated
    ]
    return lines


def _unknown(plan: Plan) -> list[str]:
    """Return one line for each reason why figures of a part are unknown or told in part."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for part in plan.parts:
        for what in ("params", "download", "weights", "activations", "flops"):
            figure: Figure = getattr(part, what)
            if figure.value is None:
                reasons.setdefault((f"{part.part} {part.name}", f"unknown: {figure.how}"), []).append(what)
            elif figure.how.startswith(PARTIAL):
                reasons.setdefault((f"{part.part} {part.name}", figure.how), []).append(what)
    return [f"{who}: {', '.join(what)} {why}" for (who, why), what in reasons.items()]


def marked(text: str, figure: Figure) -> str:
    """Return a figure's text with the sign of an estimate, or of a sum that lacks something."""
    if figure.how.startswith(PARTIAL):
        return f">={text}"
    return text if figure.exact else f"~{text}"


def _count(figure: Figure) -> str:
    return "?" if figure.value is None else marked(f"{figure.value / 1e6:.1f}M", figure)


def byte_text(figure: Figure) -> str:
    """Return a number of bytes as text."""
    if figure.value is None:
        return "?"
    size = figure.value
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return marked(f"{size / scale:.1f} {unit}", figure)
    return marked(f"{size} B" if size else "0", figure)


def _giga(figure: Figure) -> str:
    if figure.value is None:
        return "?"
    value = figure.value / 1e9
    return marked(f"{value:.1f}" if value >= 0.05 or not value else f"{value:.4f}", figure)
