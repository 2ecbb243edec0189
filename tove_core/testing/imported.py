"""Checks of what importing a plugin does, and of the functions its spec names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from importlib import metadata

from tove_core import plugins
from tove_core.errors import PluginError
from tove_core.hub.isolation import isolated
from tove_core.hub.load import import_function
from tove_core.testing.definition import CheckFailed, NotApplicable, defines
from tove_core.testing.subject import Subject

HEAVY = ("torch", "torchvision", "numpy", "timm", "transformers", "open_clip", "triton", "accelerate", "kornia", "cv2")
"""What no module may import that is loaded whenever experts are listed."""

_CODE = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"REFUSED {{name}}")
sys.meta_path.insert(0, Refuse())
importlib.import_module(sys.argv[1])
"""


@defines(
    "light-import",
    "declared",
    summary="is listed without importing torch, numpy, timm or transformers",
    cause="The module that the entry point names imports one of them, or imports a module that does; every `tove "
    "experts list` would wait for it.",
    cure="Keep the spec in a module that imports tove_core and the standard library only, and the adapter in another, "
    "which `factory` names as text. The package's `__init__.py` counts too.",
)
def light_import(subject: Subject) -> str:
    """Import the entry point's module in a fresh interpreter in which nothing heavy can be imported."""
    if subject.offer is None:
        raise NotApplicable("the spec was given by itself, not by the name of an installed expert")
    module = _module(subject.offer.source)
    problem = _refusal(module, os.pathsep.join(filter(None, sys.path)))
    if problem:
        raise CheckFailed(f"importing {module} {problem}")
    return module


def _module(source: plugins.Source) -> str:
    for entry_point in metadata.entry_points(group=plugins.GROUP, name=source.entry_point):
        if entry_point.dist and plugins.canonical(entry_point.dist.name) == source.distribution:
            return entry_point.module
    raise CheckFailed(f"{source} is no longer installed; install it again")


@lru_cache(maxsize=64)
def _refusal(module: str, path: str) -> str | None:
    """Return what went wrong on import, None for nothing. Kept, since many experts share a module."""
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _CODE, module], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    heavy = re.search(r"REFUSED (\S+)", lines[-1] if lines else "")
    if heavy is None:
        return f"fails: {lines[-1] if lines else f'exit code {done.returncode}'}"
    places = re.findall(r'File "([^"<]+)", line (\d+)', done.stderr)
    where = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
    return f"imports {heavy[1]}{where}"


@defines(
    "factory-resolves",
    "declared",
    summary="names a factory and a conversion that can be imported",
    cause="`factory` or `convert` is misspelt, its module raises when it is imported, or an optional dependency is "
    "not installed.",
    cure="Write `module:function`, as it would be imported from anywhere, and declare what the module imports in the "
    "plugin's dependencies.",
)
def factory_resolves(subject: Subject) -> str:
    """Import both functions."""
    try:
        with isolated(subject.spec.name, 0):
            for path in filter(None, (subject.spec.factory, subject.spec.convert)):
                import_function(path, subject.name)
    except PluginError as error:
        raise CheckFailed(str(error)) from error
    return subject.spec.factory
