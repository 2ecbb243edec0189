"""Refuse gate arguments that do not fit each other: every operator checks them the same way, before it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RULES = ("zero", "renormalise")
ACTIVATIONS = ("softmax", "sigmoid", "given")

# Row numbers, and where a span or block beyond the last row would end, have 32 bits in the kernels; offsets have 64.
ROWS = 2**30


def check_gate(logits: Tensor, experts: int, mask: Tensor | None, rule: str, activation: str) -> None:
    """Check the arguments of `gate_weights`; a mask is never broadcast, it is too easily of the wrong experts.

    Raises:
        ValueError: a shape or type does not fit, or `rule` or `activation` is not one there is.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; wanted one of {', '.join(RULES)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"there is no activation {activation!r}; wanted one of {', '.join(ACTIVATIONS)}")
    if logits.dim() != 3:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; wanted [B, N, E]")
    if not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype}; wanted a floating-point type")
    batch, tokens, entries = logits.shape
    if not 1 <= experts <= entries:
        raise ValueError(f"{experts} experts do not fit logits with {entries} entries; wanted 1 to {entries}")
    if activation == "given" and entries != experts:
        raise ValueError(f"given weights have {entries} entries for {experts} experts; wanted as many as experts")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype}; wanted torch.bool, True where an expert is on")
    if tuple(mask.shape) not in ((batch, experts), (batch, tokens, experts)):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}; wanted [{batch}, {experts}] or [{batch}, {tokens}, {experts}]"
        )
    check_device({"logits": [logits], "the mask": [mask]})


def check_device(named: dict[str, Sequence[Tensor]]) -> None:
    """Check that all tensors lie on one device.

    Raises:
        ValueError: they do not; the message names each argument's device.
    """
    every = [tensor.device for tensors in named.values() for tensor in tensors]
    if all(device == every[0] for device in every):
        return
    found = {name: sorted({str(tensor.device) for tensor in tensors}) for name, tensors in named.items() if tensors}
    listed = ", ".join(f"{name} on {' and '.join(devices)}" for name, devices in found.items())
    raise ValueError(f"tensors lie on several devices ({listed}); move them to one")


def check_rows(name: str, batch: int, tokens: int) -> None:
    """Check that a kernel can count the rows; not while a program is traced, whose free sizes it would bound.

    Raises:
        ValueError: there are too many.
    """
    if not torch.compiler.is_compiling() and batch * tokens >= ROWS:
        raise ValueError(f"{name} have {batch * tokens} rows; wanted fewer than 2**30, split the batch")


def check_listed(name: str, tensors: Sequence[Tensor]) -> None:
    """Check that tensors come one by one, not stacked into one.

    Raises:
        ValueError: they do not.
    """
    if isinstance(tensors, Tensor):
        raise ValueError(f"{name} are one tensor of shape {tuple(tensors.shape)}; wanted a list, a tensor per expert")


def check_same(name: str, tensors: Sequence[Tensor], shape: tuple[int, ...], wanted: str) -> None:
    """Check that every tensor has the shape and a floating-point type.

    Raises:
        ValueError: one does not; the message gives its place, what it has and what was wanted.
    """
    for place, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}[{place}] is of type {type(tensor).__name__}; wanted a tensor {wanted}")
        if tensor.shape != shape:
            raise ValueError(f"{name}[{place}] has shape {tuple(tensor.shape)}; wanted {wanted} = {list(shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name}[{place}] is {tensor.dtype}; wanted a floating-point type")
