"""Holds a region expert to what its spec promises, and gives its regions in float32 with unused slots emptied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tove_core.errors import ContractError
from tove_core.hub.regions import RegionBatch
from tove_core.spec import Regions


def checked_regions(
    given: object, promised: Regions, *, batch: int, device: torch.device, expert: str, output: str
) -> RegionBatch:
    """Return the regions of B images in float32 on `device`; slots that are not valid hold zeros and empty text.

    Args:
        given: what the expert returned for this output.
        promised: what its spec says.
        batch: B.
        device: where the result goes.
        expert: its name, for errors.
        output: the output's name, for errors.

    Raises:
        ContractError: it is no `RegionBatch`, or its shapes, values or texts are not what the spec and
            `RegionBatch` say. Slots that are not valid may hold anything.
    """
    where = f"expert '{expert}': output '{output}'"
    if not isinstance(given, RegionBatch):
        raise ContractError(f"{where} is {type(given).__name__}; the spec promises regions, return a RegionBatch")
    _check_shapes(given, promised, batch, where)
    text = _texts(given, promised, batch, where)
    valid = given.valid.to(device, copy=True)  # as all that is returned: an expert may write into its own again
    boxes = _kept(given.boxes, valid, device)
    scores = _kept(given.scores, valid, device)
    features = None if given.features is None else _kept(given.features, valid, device)
    masks = None if given.masks is None else _kept(given.masks, valid, device)
    _check_values(boxes, scores, features, masks, where)
    if text is not None:
        used = valid.tolist()
        text = [[w if ok else "" for w, ok in zip(*row, strict=True)] for row in zip(text, used, strict=True)]
    return RegionBatch(boxes=boxes, scores=scores, valid=valid, features=features, text=text, masks=masks)


def _check_shapes(given: RegionBatch, promised: Regions, batch: int, where: str) -> None:
    tensors = {"boxes": given.boxes, "scores": given.scores, "valid": given.valid}
    tensors |= {name: t for name in ("features", "masks") if (t := getattr(given, name)) is not None}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ContractError(f"{where}: {name} is {type(tensor).__name__}; give a tensor")
        kinds = "booleans" if name == "valid" else "real numbers"
        right = tensor.dtype == torch.bool if name == "valid" else not tensor.is_complex()
        if not right:
            raise ContractError(f"{where}: {name} is {tensor.dtype}; give {kinds}")
    count = given.boxes.shape[1] if given.boxes.ndim > 1 else 0
    if count > promised.limit:
        raise ContractError(f"{where} holds {count} regions; the spec promises {promised.limit} at most, keep the best")
    wanted: dict[str, tuple[int | None, ...]] = {
        "boxes": (batch, count, 4),
        "scores": (batch, count),
        "valid": (batch, count),
        "features": (batch, count, promised.channels),
        "masks": (batch, count, None, None),
    }
    for name, tensor in tensors.items():
        _check_shape(name, tensor, wanted[name], where)
    if (given.features is not None) != (promised.channels > 0):
        seen = "features" if given.features is not None else "no features"
        raise ContractError(f"{where} holds {seen}; the spec promises {promised.channels} channels of them")


def _check_shape(name: str, tensor: Tensor, wanted: tuple[int | None, ...], where: str) -> None:
    shape = tuple(tensor.shape)
    fits = len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True))
    if fits and not (name == "masks" and 0 in shape[2:]):
        return
    sides = "[" + ", ".join("any" if side is None else str(side) for side in wanted) + "]"
    raise ContractError(f"{where}: {name} has shape {list(shape)}; boxes and spec ask for {sides}")


def _texts(given: RegionBatch, promised: Regions, batch: int, where: str) -> list[list[str]] | None:
    if (given.text is not None) != promised.text:
        seen, wanted = ("text", "none") if given.text is not None else ("no text", "text")
        raise ContractError(f"{where} holds {seen}; the spec promises {wanted}")
    if given.text is None:
        return None
    count = given.boxes.shape[1]
    rows = list(given.text) if _is_list(given.text) else None
    if rows is None or len(rows) != batch or not all(_is_list(row) and len(row) == count for row in rows):
        lengths = f"{len(rows)} lists" if rows is not None else type(given.text).__name__
        raise ContractError(f"{where}: text is {lengths}; give {batch} lists of {count} strings, empty where not valid")
    wrong = [item for row in rows for item in row if not isinstance(item, str)]
    if wrong:
        raise ContractError(f"{where}: text holds {type(wrong[0]).__name__}; give strings, empty where not valid")
    return [list(row) for row in rows]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _kept(tensor: Tensor, valid: Tensor, device: torch.device) -> Tensor:
    """Return a tensor [B, R, ...] in float32 with zeros where a slot is not valid, whatever stood there."""
    values = tensor.to(device=device, dtype=torch.float32)
    mask = valid.reshape(valid.shape + (1,) * (values.ndim - 2))
    return torch.where(mask, values, 0.0)


def _check_values(boxes: Tensor, scores: Tensor, features: Tensor | None, masks: Tensor | None, where: str) -> None:
    if not _within(boxes):
        raise ContractError(
            f"{where}: a valid box is not finite or leaves 0..1; boxes are left, top, right, bottom in parts of the "
            "view, clamp them",
            about="regions",
        )
    if not bool((boxes[..., :2] <= boxes[..., 2:]).all()):
        raise ContractError(
            f"{where}: a valid box ends before it begins; give left, top, right, bottom in this order", about="regions"
        )
    if not _within(scores):
        raise ContractError(f"{where}: a valid score is not in 0..1; give probabilities", about="regions")
    if features is not None and not bool(features.isfinite().all()):
        raise ContractError(
            f"{where}: features of a valid region are not finite; check the expert's weights", about="regions"
        )
    if masks is not None and not _within(masks):
        raise ContractError(
            f"{where}: a valid mask is not in 0..1; give shares of coverage, not logits", about="regions"
        )


def _within(values: Tensor) -> bool:
    # NaN fails both comparisons.
    return bool(((values >= 0) & (values <= 1)).all())
