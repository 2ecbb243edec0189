"""What passes of a fusion over the same features share: each expert's first linear, whoever else is on or off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.nn import functional as F

_KEPT: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("kept", default=None)
"""Of layers, by their `id`: what was given to it last, and what it made of that."""


@contextmanager
def first_layers_kept() -> Iterator[None]:
    """Compute W_k u_k once for every pass over the same u_k within the block, for this thread alone.

    For passes without gradient, between which no parameter changes. What was made of the last features is kept: as
    much memory as one pass takes for it.
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def first_layer(layer: nn.Linear, values: Tensor) -> Tensor:
    """Return W_k u_k, computed or kept."""
    kept = _KEPT.get()
    if kept is None:
        return F.linear(values, layer.weight)
    given, made = kept.get(id(layer), (None, values))
    if given is not values:
        made = F.linear(values, layer.weight)
        kept[id(layer)] = values, made
    return made
