"""The page of a diagnosis: what improves, through which expert, and pictures of where two runs differ."""

from __future__ import annotations

import json
from pathlib import Path

from tove_core import __version__
from tove_core.evaluation.diagnosis import Change, Diagnosis, Part, Row
from tove_core.folders import new_folder
from tove_core.report.diagnosis_examples import examples_section
from tove_core.report.diagnosis_tables import kind_name, part_section, signed, through_name, what
from tove_core.report.page import document, escape, tag

PAGE = "index.html"
FIGURES = "diagnosis.json"


def write_diagnosis(diagnosis: Diagnosis, folder: str | Path) -> Path:
    """Write the page and, beside it, its figures as JSON; return the page.

    Args:
        diagnosis: of `tove_core.evaluation.diagnose.diagnose`.
        folder: new.

    Raises:
        CheckpointError: the folder exists already or cannot be written.
    """
    page, figures = diagnosis_page(diagnosis), json.dumps(diagnosis.plain(), indent=2, ensure_ascii=False)
    with new_folder(folder) as place:
        (place / PAGE).write_text(page, encoding="utf-8")
        (place / FIGURES).write_text(figures + "\n", encoding="utf-8")
    return Path(folder) / PAGE


def diagnosis_page(diagnosis: Diagnosis) -> str:
    """Return the page as one HTML text that needs nothing else."""
    title = f"{diagnosis.run} against {diagnosis.other}"
    shown, style = examples_section(diagnosis)
    parts = "".join(part_section(part, diagnosis) for part in diagnosis.parts)
    body = tag("h1", escape(title)) + _facts(diagnosis) + _short(diagnosis) + parts + shown + _notes(diagnosis)
    return document(f"Diagnosis: {title}", body, style=style)


def _facts(diagnosis: Diagnosis) -> str:
    counted = ", ".join(f"{part.total.n:,} {what(part)} by {part.metric}" for part in diagnosis.parts)
    facts = [
        ("run", diagnosis.run),
        ("other", diagnosis.other),
        ("experts of the run", ", ".join(diagnosis.experts) or "none"),
        ("compared", f"{counted}, about {diagnosis.images:,} images"),
    ]
    if diagnosis.left_out:
        facts.append(("left out", f"{diagnosis.left_out:,} samples: unreadable images, too long, or another task's"))
    facts.append(("written by", f"tove diagnose, tove {__version__}"))
    return tag("dl", "".join(tag("dt", escape(head)) + tag("dd", escape(text)) for head, text in facts), class_="facts")


def _short(diagnosis: Diagnosis) -> str:
    """Return the findings in sentences."""
    lines = []
    for part in diagnosis.parts:
        total = part.total
        lines.append(
            f"All {what(part)}: {part.metric} {total.run:.3f} against {total.other:.3f}, "
            f"{signed(total.difference.value)}{_within(total.difference)}."
        )
        if len(part.kinds) > 1:
            lines += [_of_sign(part, *which) for which in ((1, "Better"), (-1, "Worse"), (0, "Not clearly different"))]
    return tag("h2", "In short") + tag("ul", "".join(tag("li", escape(line)) for line in lines if line))


def _of_sign(part: Part, sign: int, word: str) -> str:
    """Return which kinds changed that way, the largest change first; nothing where none did."""
    rows = sorted((r for r in part.kinds if r.difference.sign == sign), key=lambda row: -abs(row.difference.value))
    told = [f"{kind_name(row.kind)} {signed(row.difference.value)}{_by(row, sign)}" for row in rows]
    return f"{word}: {', '.join(told)}." if told else ""


def _by(row: Row, sign: int) -> str:
    return f" (most through {through_name(row)})" if sign > 0 and row.through else ""


def _within(change: Change) -> str:
    if change.low is None or change.high is None:
        return ", without an interval, which needs two images"
    return f" with a 95 % interval from {signed(change.low)} to {signed(change.high)}"


def _notes(diagnosis: Diagnosis) -> str:
    """Return what a reader must know to read the page rightly."""
    kinds = sum(len(part.kinds) for part in diagnosis.parts)
    notes = [
        "Both answered the same samples. The intervals draw whole images (of NLVR whole statements), the same for "
        "both, because questions about one image are not independent; a difference is called clear where "
        "its interval leaves 0 out.",
        f"{kinds} kinds times {1 + len(diagnosis.experts)} comparisons make many chances: of intervals without any "
        "difference behind them, about one in twenty leaves 0 out. Decide beforehand which kind counts.",
    ]
    if diagnosis.bare:
        notes.append(
            "The other is the run itself with every expert off, whose tokens are CLIP's own to the last bit. Its "
            "decoder was trained with the experts on, so it may do worse than one that was trained without them: for a "
            "fair comparison train a run of fusion kind clip-mlp of the same size, and name it with --against."
        )
    if diagnosis.experts:
        chances = 2 * len(diagnosis.experts)
        notes.append(
            "An expert's cost is what the same run loses without it, nothing trained again. Costs do not add up to the "
            "difference: two experts that know the same hide each other, and another run has learned to do without. "
            "The expert that is missed most is the one that costs most of the score or, where none clearly does, of "
            "the answer loss, which is the finer measure. It is named only where its cost would be clear as one of "
            f"the {chances} that are looked at in its kind (p below 0.05 / {chances}, by Student's t), because the "
            "best of several is often above 0 by chance."
        )
    if any(effect.gate is not None for part in diagnosis.parts for effect in part.total.experts.values()):
        notes.append(
            "A gate of 1 is the weight of equal gates. It says how much of an expert is let in and not what it is "
            "good for. The gate sees CLIP's tokens and never the question: kinds that are asked about the same images "
            "have nearly the same gates."
        )
    notes.append(
        "Examples are drawn by a hash of their ids from all samples on which the two differ, kinds in turn; nobody "
        "picked them. Pictures show the region the run sees, brought to a square, in 256 colours."
    )
    return tag("h2", "How to read this page") + tag("ul", "".join(tag("li", escape(note)) for note in notes))
