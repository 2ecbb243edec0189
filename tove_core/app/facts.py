"""The foot of the page: what the model is made of, under which licences, and what is to be known of its answers."""

from __future__ import annotations

from tove_core import __version__
from tove_core.app.maps import without_experts
from tove_core.model import ToveModel
from tove_core.publishing.terms import Part
from tove_core.report.page import escape, tag

_WORLD = "package:tove_core.demo/"
"""Where the embedded world's CLIP lies."""


def warnings_of(model: ToveModel) -> list[str]:
    """Return what whoever reads the model's answers is to know first, a sentence each."""
    told = []
    if not model.trained:
        told.append("This model was never trained: what it says has nothing to do with the image.")
    if model.provenance.clip.reference.startswith(_WORLD):
        told.append("This model's CLIP has only seen rendered scenes; about photographs it knows nothing.")
    return told


def facts(model: ToveModel, run: str, parts: list[Part]) -> str:
    """Return the foot as HTML, everything in it escaped.

    Args:
        model: that is asked.
        run: how it was named on the command line.
        parts: of its checkpoint, as `tove_core.publishing.terms.parts_of` gives them.
    """
    rows = [("model", run)]
    rows += [(part.what, _named(part)) for part in parts]
    if not model.experts:
        rows.append(("experts", without_experts(model)))
    elif off := [name for name in model.experts if name not in model.active_experts]:
        rows.append(("off in the checkpoint", ", ".join(off)))
    rows += [("fusion", model.config.fusion.kind)] if model.experts else []
    rows.append(("shown by", f"tove app, tove {__version__}; made with tove {model.provenance.tove}"))
    told = "".join(tag("p", tag("strong", escape(text))) for text in warnings_of(model))
    listed = "".join(tag("tr", tag("th", escape(head), scope="row") + tag("td", escape(text))) for head, text in rows)
    return told + tag("table", tag("tbody", listed), class_="tove-facts")


def _named(part: Part) -> str:
    """Return a part's name with who offers it and its licence."""
    source = f", offered by {part.source}" if part.source else ""
    if not part.owned:
        return f"{part.name}{source}, no trained weights"
    use = {True: "", False: "; no commercial use", None: "; whether it allows commercial use is not known"}
    return f"{part.name}{source}, weights under {part.license or 'a licence tove does not know'}{use[part.commercial]}"
