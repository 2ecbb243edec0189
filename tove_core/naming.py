"""Names of experts, outputs and variants: lower-case words joined by hyphens. No torch."""

from __future__ import annotations

import re

CLIP = "clip"
"""The name of CLIP's own tokens among a model's features, which no expert of it can have."""
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def wanted(name: str) -> str:
    """Say what a name has to be, with the nearest one that is: "lower-case words joined by hyphens, such as 'a-b'"."""
    close = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
    return f"lower-case words joined by hyphens, such as {close if NAME.fullmatch(close) else 'depth-any'!r}"
