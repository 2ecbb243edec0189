"""Notices what an expert does to the process it runs in: network, weight files, torch's global state."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tove_core.hub.process_state import process_state, put_back

_NETWORK = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})
_WEIGHTS = frozenset({".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".onnx", ".msgpack", ".gguf"})

_listeners: list[list[str]] = []
_hooked: list[bool] = []


@contextmanager
def refused_network() -> Iterator[list[str]]:
    """Refuse network use and the reading of weight files inside the block; give the list of what was tried.

    Python's audit events are used, which see every library written in Python; they cannot be unhooked, so the hook
    stays and does nothing outside of such blocks.
    """
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    tried: list[str] = []
    _listeners.append(tried)
    try:
        yield tried
    finally:
        _listeners.remove(tried)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listeners:
        return
    what = _tried(event, arguments)
    if what is not None:
        _listeners[-1].append(what)
        raise OSError(f"{what}, which is refused while an expert is built")


def _tried(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event in _NETWORK:
        # A path instead of (host, port) is a local socket, such as a logger's.
        host = arguments[-1] if event in ("socket.connect", "socket.sendto") else arguments[:2]
        return None if isinstance(host, (str, bytes)) else f"it used the network ({event} {host!r})"
    if event == "open" and isinstance(arguments[0], str) and PurePath(arguments[0]).suffix in _WEIGHTS:
        return f"it opened the weight file {PurePath(arguments[0]).name}"
    return None


def generators() -> dict[str, object]:
    """Return the state of every random generator on the CPU, as values that can be compared."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch's random generator": torch.default_generator.get_state().numpy().tobytes(),
        "numpy's random generator": (kind, np.asarray(keys).tobytes(), *rest),
        "python's random generator": random.getstate(),
    }


@contextmanager
def undone() -> Iterator[None]:
    """Put settings, environment and random generators back after the block, so that one fault does not become many."""
    before = process_state()
    state = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        put_back(before)
        torch.default_generator.set_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])


@contextmanager
def poisoned() -> Iterator[None]:
    """Have torch fill memory nobody has written to with NaN, or with the largest integer.

    torch does so by itself in its deterministic mode, for every constructor that leaves memory as it finds it.
    """
    # Looked up by name: torch makes this module's attribute at run time, where type checkers do not see it.
    fill: Any = torch.utils.deterministic
    was, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    fill.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation", UserWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
        fill.fill_uninitialized_memory = fills


class Zeroed(TorchDispatchMode):
    """Has memory that nobody has written to hold zeros, while it is entered: what `poisoned` is compared with.

    Fresh memory may hold NaN that was freed a moment ago, so that a plain run is no measure.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and write zeros where it only reserves memory."""
        found = func(*args, **(kwargs or {}))
        return found.zero_() if func.overloadpacket in _RESERVING and isinstance(found, torch.Tensor) else found


_RESERVING = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}
