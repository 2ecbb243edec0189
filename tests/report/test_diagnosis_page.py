from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tove_core.data.sample import Sample
from tove_core.errors import CheckpointError
from tove_core.evaluation.diagnosis import Change, Diagnosis, Effect, Example, Part, Row
from tove_core.report.diagnosis_page import diagnosis_page, write_diagnosis
from tove_core.report.page import tag

EVIL = "</script><script>alert('x')</script>\"<b>&amp; ünï"
EXPERTS = ("depth & <day>", "contact")


class Reader(HTMLParser):
    """Elements with their attributes, and the text; fails where elements are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "img"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


def row(kind: str, difference: Change, cost: float, gate: float | None = 1.25) -> Row:
    effects = {
        EXPERTS[0]: Effect(Change(cost, cost - 0.02, cost + 0.02, 0.001), Change(0.5, 0.4, 0.6, 0.001), gate),
        EXPERTS[1]: Effect(Change(0.0, 0.0, 0.0, 1.0), Change(-0.25, -0.3, -0.2, 0.001), gate),
    }
    return Row(kind, 1234, 77, 0.75, 0.5, difference, 31, 8, 0.4321, effects)


def diagnosis(gate: float | None = 1.25, images: int = 1, count: int = 3) -> Diagnosis:
    kinds = [
        row(EVIL, Change(0.25, 0.125, 0.375, 0.001), 0.2, gate),
        row("", Change(-0.1, -0.2, -0.05, 0.001), 0.01, gate),
    ]
    asked = Part("exact-match", True, "exact match", row("", Change(0.25, 0.1, 0.3, 0.001), 0.1, gate), kinds)
    told = Part("captions", False, "CIDEr-D", row("", Change(0.5, None, None, None), 0.1, gate), [kinds[1]])
    pixels = np.random.default_rng(0).integers(0, 256, (37, 61, 3)).astype(np.uint8)
    maps = {name: np.full((images, 3, 5), 0.5 + n) for n, name in enumerate(EXPERTS)} if gate else {}
    shown = []
    for n in range(count):
        seen = tuple(pixels.copy() for _ in range(images)) if images > 1 else pixels
        sample = Sample(f"{EVIL}{n}", seen, None if n == 2 else EVIL, (EVIL, "b", "b"), EVIL)
        metric, scores = ("CIDEr-D", (2.5, 1.25)) if n == 2 else ("exact match", (float(n == 0), float(n != 0)))
        shown.append(Example(sample, EVIL if n else "", metric, EVIL, "", *scores, gates=maps))
    return Diagnosis(EVIL, "b", False, 1300, 77, "zero", EXPERTS, "squash", [asked, told], shown, left_out=2)


@pytest.fixture(scope="module")
def page() -> Reader:
    return Reader(diagnosis_page(diagnosis()))


def test_text_of_the_data_never_becomes_markup(page: Reader) -> None:
    assert len(page.all("script")) == 1 and page.all("b") == []
    assert page.text.count(EVIL) > 8
    assert {a["data-kind"] for a in page.all("article")} == {EVIL, "(no kind)"}


def test_nothing_is_loaded_from_elsewhere(page: Reader) -> None:
    text = diagnosis_page(diagnosis())
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert page.all("link") == [] and page.all("iframe") == []
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    assert not re.search(r"https?://|@import", text)
    assert set(re.findall(r"url\((.{10})", text)) == {"data:image"}


def test_pictures_and_tables_can_be_read_without_seeing_them(page: Reader) -> None:
    assert all(a["alt"] for a in page.all("img"))
    assert any(a["alt"] == f"gate of {EXPERTS[1]}: 1.50 to 1.50, mean 1.50" for a in page.all("img"))
    assert all(a["scope"] in ("row", "col") for a in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 8
    assert all(a["aria-hidden"] == "true" for a in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]


def test_pictures_are_the_image_and_the_gate_over_it() -> None:
    found = Reader(diagnosis_page(diagnosis(count=1))).all("img")
    assert len(found) == 1 + len(EXPERTS)
    opened = [Image.open(io.BytesIO(base64.b64decode(a["src"].partition(",")[2]))) for a in found]
    assert [one.size for one in opened] == [(128, 128), (5, 3), (5, 3)]
    dark, light = (np.asarray(one.convert("RGB")).astype(int).sum() for one in opened[1:])
    assert dark < light, "the brightest map is the one with the largest gate"


def test_findings_and_numbers_are_told(page: Reader) -> None:
    assert (
        "All questions: exact match 0.750 against 0.500, +0.250 with a 95 % interval from +0.100 to +0.300" in page.text
    )
    assert f"Better: {EVIL} +0.250 (most through {EXPERTS[0]})." in page.text
    assert "Worse: (no kind) −0.100." in page.text
    assert "✓ right" in page.text and "✗ wrong" in page.text and "CIDEr-D 2.50" in page.text
    assert "(nothing)" in page.text and "b (2)" in page.text
    assert "without an interval, which needs two images" in page.text and "Gate share" in page.text


def test_without_a_gate_or_examples_the_page_says_no_more_than_it_knows() -> None:
    page = Reader(diagnosis_page(diagnosis(gate=None)))
    assert "Gate share" not in page.text and "Gate maps" not in page.text and len(page.all("img")) == 3
    assert "no sample on which the two differ" in Reader(diagnosis_page(diagnosis(count=0))).text


def test_the_bare_run_is_said_to_have_a_decoder_that_was_trained_with_experts() -> None:
    told = "decoder was trained with the experts on"
    found = diagnosis()
    assert told not in diagnosis_page(found)
    assert told in diagnosis_page(Diagnosis(**{**vars(found), "bare": True}))


def test_a_page_stays_below_five_megabytes() -> None:
    page = diagnosis_page(diagnosis(images=3, count=40))
    assert len(page) < 5_000_000
    assert "1 more images are not shown" in page


def test_the_folder_holds_the_page_and_the_same_figures_and_is_not_overwritten(tmp_path: Path) -> None:
    found = diagnosis()
    written = write_diagnosis(found, tmp_path / "new")
    assert written.read_text(encoding="utf-8") == diagnosis_page(found)
    figures = json.loads((tmp_path / "new" / "diagnosis.json").read_text(encoding="utf-8"))
    assert figures == found.plain() and figures["parts"][0]["kinds"][0]["kind"] == EVIL
    assert figures["parts"][0]["kinds"][0]["through"] == {"expert": EXPERTS[0], "by": "score"}
    assert figures["examples"][1]["gates"][EXPERTS[0]] == [[[0.5] * 5] * 3]
    with pytest.raises(CheckpointError, match="exists"):
        write_diagnosis(found, tmp_path / "new")


def test_attributes_are_escaped_and_left_out_where_there_are_none() -> None:
    assert (
        tag("td", "<i>", class_='a"b', style=None, data_value=1.5) == '<td class="a&quot;b" data-value="1.5"><i></td>'
    )
