"""Experts that a process registers for itself, as a notebook does before there is a plugin. No torch.

Each is a plugin of its own, an object with the hook that a plugin's module has, and is read and checked like one.
"""

from __future__ import annotations

import hashlib
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

from tove_core.hookspecs import hookimpl
from tove_core.spec import ExpertSpec

IN_PROCESS = "in-process"
"""Stands where the name of a distribution would; a distribution of this name is refused."""


class Registered:
    """The plugin that offers one registered expert."""

    def __init__(self, spec: ExpertSpec) -> None:
        """Hold what is offered."""
        self.spec = spec

    @hookimpl
    def tove_experts(self) -> Iterable[ExpertSpec]:
        """Return the one expert."""
        return [self.spec]

    @property
    def version(self) -> str:
        """What stands for a version: a hash of all that the spec declares. Of code it says nothing."""
        # Defaults left out: a field that a later tove adds changes nothing. Options may be what JSON cannot say.
        declared = repr(self.spec.model_dump(exclude_defaults=True))
        return f"spec-{hashlib.sha256(declared.encode()).hexdigest()[:12]}"


REGISTERED: dict[str, Registered] = {}
"""What this process registered, by the expert's name."""


_MARKS: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def code_digest(spec: ExpertSpec, built: object) -> str:
    """Return what tells the code of a registered expert apart where features are kept on disk.

    A hash of the files of the modules that build and convert. Code typed into a session has no file, and nothing shows
    that other code is the same: what it built gets a mark of its own, so that no other model is given its features.

    Args:
        spec: what was registered.
        built: the expert that it built.
    """
    digest = hashlib.sha256()
    for path in filter(None, (spec.factory, spec.convert)):
        file = getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
        if file and Path(file).is_file():
            digest.update(Path(file).read_bytes())
        else:
            digest.update(_MARKS.setdefault(built, uuid.uuid4().hex).encode())
    return digest.hexdigest()
