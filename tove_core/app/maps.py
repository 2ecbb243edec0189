"""Gates of one image as pictures with captions, and the sentence under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from tove_core.hub.images import ImageSource
from tove_core.model import ToveModel
from tove_core.report.gate_maps import over, scale_of, seen
from tove_core.report.page import escape, picture, tag

SIDE = 288
"""Pixels of a map's side."""


def gate_pictures(
    model: ToveModel, image: ImageSource, gates: Mapping[str, Tensor]
) -> tuple[tuple[tuple[Image.Image, str], ...], str]:
    """Return a picture and a caption for each gate map, and what the colours mean, or why there is no map.

    All maps share one scale, from no weight to the largest weight among them.

    Args:
        model: whose view of the image is shown.
        image: as `ToveModel.gates` takes it.
        gates: of each expert that is on, [rows, columns]; may be empty.
    """
    if not gates:
        return (), why_no_maps(model)
    largest = max(float(grid.max()) for grid in gates.values())
    picture = seen(image, model.config.view, SIDE)
    return tuple((over(picture, grid, largest), _caption(name, grid)) for name, grid in gates.items()), scale_of(
        largest
    )


def figures(maps: Sequence[tuple[Image.Image, str]]) -> str:
    """Return maps with their captions as HTML, the pictures inside it: none is kept as a file."""
    listed = [
        tag("figure", tag("img", src=picture(one), alt=told) + tag("figcaption", escape(told))) for one, told in maps
    ]
    return tag("div", "".join(listed), class_="tove-maps") if listed else ""


def has_gate(model: ToveModel) -> bool:
    """Tell whether the model's fusion weights experts token by token."""
    return model.config.fusion.kind == "gate"


def why_no_maps(model: ToveModel) -> str:
    """Return the sentence on a model, with the experts that are on, that has no gates to show."""
    if model.fusion is None or not model.fusion.experts:
        return without_experts(model)
    if not has_gate(model):
        return f"a fusion of kind {model.config.fusion.kind!r} has no gate, so there is no map to show"
    return "no expert is on, so there is no gate to show; the answer is by CLIP's own tokens"


def without_experts(model: ToveModel) -> str:
    """Return the sentence on a model that holds no experts, which a merged one says of itself."""
    if model.origin.own_tower:
        return "this model was merged and holds no experts: its CLIP was trained to give by itself what they added"
    return "this model holds no experts, so there is no gate to show"


def _caption(name: str, grid: Tensor) -> str:
    return f"{name}: mean {float(grid.mean()):.2f}, largest {float(grid.max()):.2f}"
