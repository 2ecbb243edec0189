"""The examples of a diagnosis: pictures with gate maps over them, the question, both answers and the right one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
from PIL import Image

from tove_core.data.sample import ImageRef, load_image
from tove_core.evaluation.diagnosis import Diagnosis, Example
from tove_core.hub.view import View
from tove_core.report.diagnosis_tables import kind_name
from tove_core.report.gate_maps import colours, seen
from tove_core.report.page import escape, picture, tag

SIDE = 128
"""Pixels of a picture's side."""
PICTURES = 2
"""Images shown of a sample that has several; a page stays small enough to be sent around."""
TARGETS = 5
"""Right texts shown of a sample."""


def examples_section(diagnosis: Diagnosis) -> tuple[str, str]:
    """Return the section and the CSS that holds its pictures, so that a picture under five maps is there once."""
    if not diagnosis.examples:
        return tag("h2", "Examples") + tag("p", "There is no sample on which the two differ."), ""
    gates = [maps for example in diagnosis.examples for maps in example.gates.values()]
    largest = max((float(maps.max()) for maps in gates), default=0.0)
    cards, rules = [], []
    for number, example in enumerate(diagnosis.examples):
        card, own = _card(example, number, diagnosis, largest)
        cards.append(card)
        rules += own
    better = sum(part.total.better for part in diagnosis.parts)
    worse = sum(part.total.worse for part in diagnosis.parts)
    shown = Counter(example.better for example in diagnosis.examples)
    told = (
        f"The run scores higher on {better:,} samples, of which {shown[True]} are shown; the other on {worse:,}, of "
        f"which {shown[False]} are shown."
    )
    intro = tag("p", escape(told))
    if gates:
        scale = tag("span", class_="scale", role="img", aria_label="from dark blue over green to yellow")
        intro += tag("p", f"Gate maps: 0 {scale} {largest:.2f}; 1 is the weight of equal gates.", class_="quiet")
    return tag("h2", "Examples") + intro + _filters(diagnosis.examples) + "".join(cards), "\n".join(rules)


def _filters(examples: Sequence[Example]) -> str:
    kinds = sorted({example.kind for example in examples})
    every = [("*", "all kinds"), *((kind_name(kind), kind_name(kind)) for kind in kinds)]
    ways = [("*", "both ways"), ("better", "run better"), ("worse", "other better")]
    chosen = _choice("kind", "kind", every) + _choice("which", "way", ways)
    return tag("div", chosen + tag("output", aria_live="polite"), class_="filters", hidden="")


def _choice(label: str, name: str, options: Sequence[tuple[str, str]]) -> str:
    listed = "".join(tag("option", escape(text), value=value) for value, text in options)
    return tag("label", f"{label} " + tag("select", listed, name=name))


def _card(example: Example, number: int, diagnosis: Diagnosis, largest: float) -> tuple[str, list[str]]:
    """Return one example, and the CSS rules of its pictures."""
    images = example.sample.images
    rows, rules = [], []
    for place, image in enumerate(images[:PICTURES]):
        row, rule = _pictures(example, image, place, f"e{number}-{place}", diagnosis, largest)
        rows.append(row)
        rules.append(rule)
    more = len(images) - PICTURES
    note = tag("p", f"{more} more images are not shown.", class_="quiet") if more > 0 else ""
    said = tag("div", "".join(rows) + note) + tag("div", _said(example, diagnosis), class_="said")
    way = "better" if example.better else "worse"
    who = "run better" if example.better else "other better"
    head = tag("h3", escape(f"{kind_name(example.kind)} · {who} · {example.sample.id}"))
    card = head + tag("div", said, class_="cols")
    return tag("article", card, class_="example", data_kind=kind_name(example.kind), data_way=way), rules


def _pictures(
    example: Example, image: ImageRef, place: int, name: str, diagnosis: Diagnosis, largest: float
) -> tuple[str, str]:
    """Return one image with each expert's gate over it, and the rule that puts it under the maps."""
    address = picture(seen(load_image(image), cast(View, diagnosis.view), SIDE))
    number = f" {place + 1}" if len(example.sample.images) > 1 else ""
    alt = f"image{number} of sample {example.sample.id}"
    figures = [tag("figure", tag("img", src=address, alt=alt) + tag("figcaption", f"image{number}"), class_="seen")]
    for expert, maps in example.gates.items():
        grid = maps[place].astype(np.float64)
        heat = picture(Image.fromarray(colours(grid / max(largest, 1e-9))))
        told = f"gate of {expert}: {grid.min():.2f} to {grid.max():.2f}, mean {grid.mean():.2f}"
        over = tag("div", tag("img", src=heat, alt=told), class_=f"map {name}")
        foot = tag("figcaption", escape(f"{expert} {grid.mean():.2f}"))
        figures.append(tag("figure", over + foot, title=told))
    rule = f".{name} {{ background-image: url({address}); }}" if example.gates else ""
    return tag("div", "".join(figures), class_="pictures"), rule


def _said(example: Example, diagnosis: Diagnosis) -> str:
    question = example.sample.prompt
    asked = tag("p", "no question: a caption" if question is None else escape(question), class_="question")
    told = Counter(example.sample.targets)
    right = [text if count == 1 else f"{text} ({count})" for text, count in told.most_common(TARGETS)]
    more = f" and {len(told) - TARGETS} more" if len(told) > TARGETS else ""
    rows = [
        (diagnosis.run, escape(example.run) or "(nothing)", example.run_score),
        (diagnosis.other, escape(example.other) or "(nothing)", example.other_score),
    ]
    lines = "".join(tag("dt", escape(n)) + tag("dd", f"{text} {_mark(example.metric, s)}") for n, text, s in rows)
    join = " / " if question is None else ", "
    lines += tag("dt", "right") + tag("dd", escape(join.join(right) + more))
    return asked + tag("dl", lines)


def _mark(metric: str, score: float) -> str:
    """Return right or wrong in words, not by colour alone; else the score."""
    if metric != "CIDEr-D" and score in (0.0, 1.0):
        word, kind = ("✓ right", "mark good") if score else ("✗ wrong", "mark bad")
        return tag("span", word, class_=kind)
    return tag("span", f"{escape(metric)} {score:.2f}", class_="mark quiet")
