"""How much memory this process has taken."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_resident() -> int | None:
    """Return the most bytes that were resident in this process so far; None on Windows, which does not say."""
    if _STATUS.is_file():
        # Not getrusage there: a process begins with the peak of the one that started it.
        for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    # Kilobytes everywhere but on macOS, which counts bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
