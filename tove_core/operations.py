"""Counts the operations of what really runs; `tove_core.planning.measure` counts on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count what runs in the block; `get_total_flops` of what is given tells, a multiply-add as two.

    Matrix products, convolutions and attention of PyTorch count, Triton kernels do not.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    # Without gradients torch.nn.MultiheadAttention is one fused operator, of which the counter knows nothing.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
