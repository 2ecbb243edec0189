"""Choose among an operator's forms, plain PyTorch, that form compiled, and Triton, and say why; imports neither."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal

VARIABLE = "TOVE_KERNELS"
WISHES = ("auto", "reference", "compiled", "triton")
Backend = Literal["reference", "compiled", "triton"]
INTERPRET = "TRITON_INTERPRET"

# What triton itself takes for yes.
_TRUE = frozenset({"1", "true", "yes", "on", "y"})


@dataclass(frozen=True)
class Choice:
    """Which form of an operator runs, and why; `str()` is one sentence."""

    backend: Backend
    reason: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


def choose(device: str, env: Mapping[str, str] = os.environ) -> Choice:
    """Choose the form for tensors on a type of device, by TOVE_KERNELS (one of `WISHES`; auto if unset).

    auto takes Triton on CUDA devices where it is installed, and plain PyTorch everywhere else: compiling it, which
    `compiled` asks for, takes seconds at the first call with arguments of a kind.

    Args:
        device: the type alone: "cuda", "cpu", "meta", ...
        env: where the variables are read; at each call, so that a test or a notebook can change them.

    Raises:
        ValueError: TOVE_KERNELS has another value.
        RuntimeError: TOVE_KERNELS is triton or compiled, and that cannot run there; nothing falls back.
    """
    wish = (env.get(VARIABLE) or "auto").strip().lower()
    if wish not in WISHES:
        raise ValueError(f"{VARIABLE} is {wish!r}; wanted one of {', '.join(WISHES)}")
    if wish == "reference":
        return Choice("reference", f"{VARIABLE}=reference")
    if wish == "auto" and device != "cuda":
        return Choice("reference", f"{VARIABLE}=auto and the tensors are on {device}")
    if wish == "compiled":
        if device == "cpu" and (missing := _no_compiler(env)):
            raise RuntimeError(f"{VARIABLE}=compiled, but {missing}")
        return Choice("compiled", f"{VARIABLE}=compiled")
    why_not = _why_not(device, env)
    if wish == "triton":
        if why_not:
            raise RuntimeError(f"{VARIABLE}=triton, but {why_not}")
        return Choice("triton", f"{VARIABLE}=triton" + (", in triton's interpreter" if interpreting(env) else ""))
    if why_not:
        return Choice("reference", f"{VARIABLE}=auto, and {why_not}")
    return Choice("triton", f"{VARIABLE}=auto and the tensors are on cuda")


def interpreting(env: Mapping[str, str] = os.environ) -> bool:
    """Tell whether triton interprets kernels in Python (TRITON_INTERPRET), which works without a GPU."""
    return (env.get(INTERPRET) or "").strip().lower() in _TRUE


def _why_not(device: str, env: Mapping[str, str]) -> str | None:
    """Say why Triton cannot run on the device, and what to do; None where it can."""
    interpreted = interpreting(env)
    if not _has_triton():
        return "triton is not installed; install it or use reference"
    if device != "cuda" and not interpreted:
        return f"the tensors are on {device}; move them to cuda, use reference, or set {INTERPRET}=1 to test on a CPU"
    if interpreted and not _imported_as_interpreter():
        return f"{INTERPRET} was set after triton was imported; set it before Python starts"
    if not interpreted and not (env.get("CC") or any(_on_path(name, env.get("PATH")) for name in ("gcc", "clang"))):
        return "there is no C compiler, which triton needs to launch; install gcc, name one in CC, or use reference"
    return None


def _no_compiler(env: Mapping[str, str]) -> str | None:
    """Say that there is no C++ compiler where torch.compile looks for one, and what to do; None where there is."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    name = env.get("CXX") or usual
    if _on_path(name.split()[0], env.get("PATH")):
        return None
    return f"there is no C++ compiler {name!r} to compile for a CPU; install one, name one in CXX, or use reference"


@cache  # asked for at every call of an operator, and the answer takes as long as a small operator
def _on_path(name: str, path: str | None) -> bool:
    return shutil.which(name, path=path) is not None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _imported_as_interpreter() -> bool:
    # Triton decides function by function, when it decorates one; its own library is decorated when it is imported.
    standard = sys.modules.get("triton.language.standard")
    return standard is None or type(getattr(standard, "zeros", None)).__name__ == "InterpretedFunction"
