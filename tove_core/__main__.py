"""`python -m tove_core`: the `tove` command, which launchers of several processes start by this name."""

from __future__ import annotations

from tove_core.cli.main import main

main()
