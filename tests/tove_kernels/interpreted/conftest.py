"""These files test kernels in triton's interpreter; test_interpreted.py, one folder up, runs each in its own process.

Triton decides whether it interprets when it is first imported, which in a longer test session has long happened.
"""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch):
    monkeypatch.setenv("TOVE_KERNELS", "triton")
