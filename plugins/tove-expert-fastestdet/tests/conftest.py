from __future__ import annotations

import os
from pathlib import Path

import pytest

from tove_core import plugins
from tove_core.hub.load import load_expert


@pytest.fixture(scope="session")
def expert():
    """The expert with the weights it ships, as the hub loads it."""
    found, _ = load_expert(plugins.registry().resolve("tove-expert-fastestdet/fastestdet").spec, name="fastestdet")
    return found


@pytest.fixture
def data():
    """Give `data(name)`: that folder below TOVE_TEST_DATA; where it is missing the test is skipped, or fails."""

    def folder(name: str) -> Path:
        root = os.environ.get("TOVE_TEST_DATA")
        if root and (Path(root) / name).is_dir():
            return Path(root) / name
        if os.environ.get("TOVE_REQUIRE_TEST_DATA") == "1":
            pytest.fail(f"TOVE_TEST_DATA has no folder {name!r}, but TOVE_REQUIRE_TEST_DATA=1 wants every data set")
        return pytest.skip(f"TOVE_TEST_DATA has no folder {name!r}")

    return folder
