"""The conformance kit: one list of checks for `tove experts check` and for the tests of a plugin.

It holds no fixtures and no doubles; it builds experts with random weights on the CPU and downloads nothing.
"""

from __future__ import annotations

from tove_core.testing.catalogue import CATALOGUE
from tove_core.testing.definition import CheckFailed, Definition, NotApplicable, NotRun
from tove_core.testing.parametrize import parametrize_with_checks
from tove_core.testing.run import Check, Result, checks, count, run_checks

__all__ = [
    "CATALOGUE",
    "Check",
    "CheckFailed",
    "Definition",
    "NotApplicable",
    "NotRun",
    "Result",
    "checks",
    "count",
    "parametrize_with_checks",
    "run_checks",
]
