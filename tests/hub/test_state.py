"""Tensors of an expert's or a model's state, for a file."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tove_core.hub.state import copied_to_cpu


class Copies(TorchDispatchMode):
    """Counts the operations that copy a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ in ("clone", "_to_copy", "copy_")
        return function(*args, **(kwargs or {}))


def test_a_tensor_is_copied_once_however_it_lies() -> None:
    for tensor in (torch.randn(3, 5).T, torch.randn(2, 9)[:, 3:5], torch.randn(4), torch.tensor(7), torch.randn(())):
        with Copies() as copies:
            found = copied_to_cpu(tensor.requires_grad_() if tensor.is_floating_point() else tensor)
        assert copies.count == 1 and not found.requires_grad
        assert torch.equal(found, tensor) and found.is_contiguous()
        assert found.untyped_storage().nbytes() == found.nbytes
        assert found.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
