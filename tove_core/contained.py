"""Keeps what importing a plugin does to its process from reaching those who never use its experts. No torch."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any


@contextmanager
def contained() -> Iterator[list[str]]:
    """Run a block whose prints go to stderr, and put back what it changes for everybody's warnings and logging.

    A filter that names a message, a module or a category of a library's own stays, as libraries make them for
    themselves when they are imported.

    Yields:
        What it changed, in words; complete after the block.
    """
    changed: list[str] = []
    own: list[Any] = []
    root = logging.getLogger()
    logger = root.handlers[:], root.level, root.manager.disable
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():  # stdout is for what was asked for, such as JSON
            before = warnings.filters[:]
            try:
                yield changed
            finally:
                own = [one for one in warnings.filters if one not in before and not _is_broad(one)]
                if [one for one in warnings.filters if one not in own] != before:
                    changed.append("the warning filters")
    finally:
        for action, message, category, module, line in reversed(own):
            text, place = message.pattern if message else "", module.pattern if module else ""
            warnings.filterwarnings(action, text, category, place, line)
        if (root.handlers, root.level, root.manager.disable) != logger:
            changed.append("the root logger")
            root.handlers[:] = logger[0]
            root.setLevel(logger[1])
            logging.disable(logger[2])


def _is_broad(one: Any) -> bool:
    _, message, category, module, _ = one
    return message is None and module is None and category.__module__ == "builtins"
