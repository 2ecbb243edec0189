from __future__ import annotations

from PIL import Image

from tove_core.app.maps import figures


def test_figures_hold_their_pictures_and_escaped_captions() -> None:
    maps = [(Image.new("RGB", (5, 7), colour), f"<{colour}> & more") for colour in ("red", "teal")]
    told = figures(maps)
    assert told.count("<figure>") == told.count('src="data:image/png;base64,') == 2
    assert "<figcaption>&lt;teal&gt; &amp; more</figcaption>" in told and "<teal>" not in told


def test_no_maps_are_no_figures() -> None:
    assert figures([]) == ""
