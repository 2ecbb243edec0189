"""What tests of every package share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Give `shared_data(name)`: the folder of that public data set below TOVE_TEST_DATA.

    A missing folder skips the test, with the reason; where TOVE_REQUIRE_TEST_DATA=1 it fails it.
    """

    def folder(name: str) -> Path:
        root = os.environ.get("TOVE_TEST_DATA")
        reason = "TOVE_TEST_DATA is not set" if not root else f"TOVE_TEST_DATA has no folder {name!r}"
        if root and (Path(root) / name).is_dir():
            return Path(root) / name
        if os.environ.get("TOVE_REQUIRE_TEST_DATA") == "1":
            pytest.fail(f"{reason}, but TOVE_REQUIRE_TEST_DATA=1 wants every data set")
        pytest.skip(reason)

    return folder
