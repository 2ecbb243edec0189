"""Pieces of a page that stands alone: escaped text, tables, pictures inside the page, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from PIL import Image

__all__ = ["Cell", "document", "escape", "picture", "table", "tag"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a browser may load for the page: nothing that is not in it."""


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """Return an element around content that is HTML already; attributes are escaped, those that are None left out.

    An underscore at the end of an attribute's name is dropped (`class_`), others become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>" if name in ("img", "meta") else f"<{name}{given}>{content}</{name}>"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        content: HTML.
        value: what the column is sorted by; None: the content.
        style: CSS of the cell.
        kind: its class.
    """

    content: str
    value: float | str | None = None
    style: str | None = None
    kind: str | None = None


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, foot: Sequence[Cell] = ()) -> str:
    """Return a table that can be sorted; the first cell of a row is its head.

    Args:
        caption: text.
        heads: texts of the columns.
        rows: cells, as many as heads.
        foot: a row that stays below the others, or nothing.
    """
    head = tag("tr", "".join(tag("th", escape(text), scope="col") for text in heads))
    body = tag("tbody", "".join(_row(cells) for cells in rows))
    last = tag("tfoot", _row(foot)) if foot else ""
    whole = tag("table", tag("caption", escape(caption)) + tag("thead", head) + body + last, class_="sortable")
    return tag("div", whole, class_="wide", tabindex=0, role="region", aria_label=caption)  # scrolls by keyboard too


def _row(cells: Sequence[Cell]) -> str:
    first, *others = cells
    head = tag("th", first.content, scope="row", data_value=first.value)
    return tag(
        "tr",
        head + "".join(tag("td", c.content, data_value=c.value, style=c.style, class_=c.kind) for c in others),
    )


def picture(image: Image.Image) -> str:
    """Return an image as a `data:` address: a PNG of at most 256 colours."""
    if image.mode == "RGB":
        # A photograph takes a third of the room this way, and the page must stay small enough to be sent around.
        image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"


def document(title: str, body: str, *, style: str = "") -> str:
    """Return a whole page with the style and the script of this package inside.

    Args:
        title: text.
        body: HTML.
        style: CSS that belongs to this page alone.
    """
    beside = files("tove_core.report")
    found = {name: (beside / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    head = '<meta charset="utf-8">'
    head += tag("meta", http_equiv="Content-Security-Policy", content=_POLICY)
    head += tag("meta", name="viewport", content="width=device-width, initial-scale=1")
    head += tag("title", escape(title)) + tag("style", found["page.css"] + style)
    shown = tag("main", body) + tag("script", found["page.js"])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{shown}</body></html>\n'
