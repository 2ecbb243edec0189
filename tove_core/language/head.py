"""Logits of some places of a batch alone: of a large vocabulary they take more memory than all else in a step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tove_core.language.lora import adapted


@contextmanager
def only_rows(model: PreTrainedModel, sample: Tensor, place: Tensor, grid: tuple[int, int]) -> Iterator[list[bool]]:
    """Let a language model's last linear see A places [1, A, H] of the states [B, L, H] it is called with.

    What comes behind it works element by element in every language model there is: scaling, soft-capping, a type.
    Calls of other threads see what they are called with, as do those within `generate`.

    Args:
        model: left as it is where it has no such linear, or calls it otherwise.
        sample: [A], which of B samples each place is of.
        place: [A], which of its L places.
        grid: B and L.

    Yields:
        A list that holds something as soon as the places were picked: logits are then [1, A, V].
    """
    head, caller, picked = model.get_output_embeddings(), threading.get_ident(), list[bool]()
    if not isinstance(head, nn.Linear) and all(head is not layer for layer in adapted(model).values()):
        yield picked
        return

    def pick(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != caller or not given or picked or tuple(given[0].shape[:-1]) != grid:
            return None
        picked.append(True)
        return (given[0][sample, place][None], *given[1:])

    hook = head.register_forward_pre_hook(pick)  # type: ignore[union-attr]
    try:
        yield picked
    finally:
        hook.remove()
