"""What a plugin's code must leave alone in its process, read and put back: torch's settings and the environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

ENVIRONMENT = "the environment variable"
LIBRARIES_OWN = frozenset(
    {
        "CUBLAS_WORKSPACE_CONFIG",
        "DISABLE_CUPTI_LAZY_REINIT",
        "KMP_DUPLICATE_LIB_OK",
        "TEARDOWN_CUPTI",
        "TOKENIZERS_PARALLELISM",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
    }
)
"""Variables that torch, transformers and open_clip set by themselves when a part of them is first imported or used."""
MIXED = "set for some operators alone"
"""A setting of TF32 that torch cannot tell in one word, nor be given back; one word in its place can be undone."""


def _told(read: Callable[[], Any]) -> Callable[[], Any]:
    def value() -> Any:
        try:
            return read()
        except RuntimeError:  # set by the names of operators, as `torch.backends.cudnn.conv.fp32_precision` does
            return MIXED

    return value


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _backend(name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return _told(lambda: getattr(torch.backends.cudnn, name)), lambda value: setattr(torch.backends.cudnn, name, value)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (
        lambda: str(torch.get_default_device()),
        lambda device: torch.set_default_device(None if device == "cpu" else device),
    ),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    # The two words for TF32 in matrix products, this one and `torch.backends.cuda.matmul.allow_tf32`, are one setting.
    "torch's matmul precision": (_told(torch.get_float32_matmul_precision), torch.set_float32_matmul_precision),
    "torch's deterministic algorithms": (
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    **{f"cudnn.{name}": _backend(name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")},
}
"""By a name an author would look for: how it is read, and how it is set."""


def process_state() -> dict[str, object]:
    """Return torch's process-wide settings by name, and the environment but for what libraries set themselves."""
    found: dict[str, object] = {name: read() for name, (read, _) in _SETTINGS.items()}
    return found | {f"{ENVIRONMENT} {name}": value for name, value in os.environ.items() if name not in LIBRARIES_OWN}


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Return the names of what differs, or is in one of the two alone."""
    return [key for key in {**before, **after} if key not in before or key not in after or before[key] != after[key]]


@contextmanager
def written_here() -> Iterator[set[str]]:
    """Give the names of the environment variables that this thread writes or removes within the block."""
    written: set[str] = set()
    kind: Any = type(os.environ)
    thread = threading.get_ident()

    class Watched(kind):
        def __setitem__(self, key: str, value: str) -> None:
            super().__setitem__(key, value)
            if threading.get_ident() == thread:
                written.add(key)

        def __delitem__(self, key: str) -> None:
            super().__delitem__(key)
            if threading.get_ident() == thread:
                written.add(key)

    # Of the one mapping, in its place: others hold it already, and to compare before and after does not tell by whom.
    os.environ.__class__ = Watched
    try:
        yield written
    finally:
        os.environ.__class__ = kind


def put_back(before: Mapping[str, object], written: Collection[str] | None = None) -> list[str]:
    """Make the state of this process what `process_state` gave before, and return the names of what had changed.

    Args:
        before: the state.
        written: environment variables that are put back if they changed, and no others; None: all.
    """
    names = None if written is None else {f"{ENVIRONMENT} {name}" for name in written}
    changed = [
        key
        for key in changes(before, process_state())
        if names is None or key in names or not key.startswith(ENVIRONMENT)
    ]
    for key in changed:
        variable = key.removeprefix(f"{ENVIRONMENT} ")
        if variable == key:
            if before[key] != MIXED:
                _SETTINGS[key][1](before[key])
        elif key in before:
            os.environ[variable] = str(before[key])
        else:
            del os.environ[variable]
    return changed
