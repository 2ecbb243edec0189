"""Counts what a module on the meta device would compute and hold, by running it there: no memory, no arithmetic."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Run:
    """What one call computes and holds."""

    flops: int
    """Convolutions, matrix products and attention; a multiply-add counts as two."""
    peak: int
    """Most bytes alive at once among tensors made during the call."""
    stopped: str | None = None
    """Why the call did not come to its end; the figures then tell of what came before."""


def run(call: Callable[[], Any], *, gradients: bool = False, partial: bool = False) -> Run:
    """Run `call` on tensors of the meta device and count.

    Attention is taken to be fused: its matrix of scores is not held. Workspaces of kernels and what an allocator
    wastes are not counted. With `gradients` what is kept for the backward pass stays alive. With `partial` a call that
    fails is counted up to there: steps that depend on values cannot run without any.
    """
    stopped = None
    with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as counter:
        alive = _Alive()
        try:
            with alive, _FusedAttention():
                kept = call()
            del kept
        except (Exception, SystemExit) as error:
            if not partial:
                raise
            stopped = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return Run(counter.get_total_flops(), alive.peak, stopped)


def tensor_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])


def parameters(module: nn.Module) -> int:
    """Return the number of a module's parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


class _Alive(TorchDispatchMode):
    """Adds up the storages that operators make, for as long as anybody holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(tensor) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage, key = tensor.untyped_storage(), _key(tensor)
            if key in self._seen or key in given:  # a view, or written in place
                continue
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            self._seen[key] = weakref.ref(storage, lambda _, key=key, size=size: self._gone(key, size))
        return result

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        self._seen.pop(key, None)


class _FusedAttention(TorchFunctionMode):
    """Sends attention to the fused operator, as an accelerator does; meta by itself would take it apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and len(args) >= 3 and args[0].is_meta:
            return _fused(*args[:3])
        return func(*args, **kwargs)


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    lead = query.shape[:-2]
    query, key, value = (tensor.reshape(-1, *tensor.shape[-3:]) if tensor.ndim > 3 else tensor[None]
                         for tensor in (query, key, value))  # fmt: skip
    heads = query.shape[1]
    # Grouped queries: fewer keys than queries, shared and not copied.
    key, value = (tensor[:, :1].expand(-1, heads, -1, -1) if tensor.shape[1] != heads else tensor
                  for tensor in (key, value))  # fmt: skip
    mixed = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, False)[0]
    return mixed.reshape(*lead, *mixed.shape[-2:])


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
