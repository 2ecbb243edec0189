"""What a model has been through, kept in a buffer of it, so that its `state_dict` knows it too."""

from __future__ import annotations

from typing import overload

from torch import Tensor, nn


class Mark:
    """One place of the buffer `progress`, read and set as a bool.

    Args:
        place: where in the buffer.
        doc: what it tells.
    """

    def __init__(self, place: int, doc: str) -> None:
        self._place = place
        self.__doc__ = doc

    @overload
    def __get__(self, owner: None, kind: type) -> Mark: ...
    @overload
    def __get__(self, owner: nn.Module, kind: type) -> bool: ...
    def __get__(self, owner: nn.Module | None, kind: type) -> Mark | bool:
        """Return whether it is set."""
        return self if owner is None else bool(_progress(owner)[self._place])

    def __set__(self, owner: nn.Module, done: bool) -> None:
        """Set it, or take it back."""
        _progress(owner)[self._place] = done


def _progress(owner: nn.Module) -> Tensor:
    return owner.get_buffer("progress")
