"""`tove weights` on what was really taken from a hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

import tove_core
from tove_core import plugins
from tove_core.hub.download import fetch
from tove_core.hub.lock import Lock
from tove_core.spec import Weights

A, B = "a" * 40, "b" * 40
CONTENT = b"weights" * 13


@pytest.fixture
def stated(hub: Any, make_spec: Any) -> Iterator[str]:
    """An expert whose spec states commit and hash of its file, so that nothing is left for the lock file to say."""
    hub.commit("owner/name", A, {"model.safetensors": CONTENT})
    digest = hashlib.sha256(CONTENT).hexdigest()
    weights = Weights(repo="owner/name", revision=A, sha256=digest, license="MIT")
    tove_core.register(make_spec("stated", weights=weights))
    yield "stated"
    plugins.registry.cache_clear()


def test_a_file_that_a_spec_pins_is_shown_and_its_damage_is_found(stated: str, tove: Any) -> None:
    assert "stated: owner/name model.safetensors at" in tove("weights", "lock", stated).out
    assert tove("weights", "lock").out.startswith(f"owner/name {A[:12]} model.safetensors sha256 ")
    intact = tove("weights", "verify")
    assert intact.code == 0 and intact.out.endswith("1 files checked, 0 failed\n")
    path = fetch("owner/name", "model.safetensors", A).resolve()
    path.chmod(0o644)
    path.write_bytes(CONTENT + b"x")
    damaged = tove("weights", "verify")
    assert damaged.code == 1 and "failed: " in damaged.out and "1 files checked, 1 failed" in damaged.out


def test_pins_without_files_are_shown_and_are_no_success(stated: str, tove: Any) -> None:
    Lock().record_pin("owner/language", B)
    told = tove("weights", "lock").out
    assert f"owner/language {B[:12]} the commit alone" in told and ", 1 pinned without a file" in told
    nothing = tove("weights", "verify")
    assert f"not checked: owner/language is pinned to {B[:12]}" in nothing.out
    assert "nothing was checked" in nothing.error
    tove("weights", "lock", stated)
    some = tove("weights", "verify")
    assert some.code == 0 and some.out.endswith("1 files checked, 0 failed, 1 pinned without a file\n")


def test_a_file_taken_from_a_pinned_branch_counts_as_a_file_of_that_pin(stated: str, tove: Any) -> None:
    Lock().record_pin("owner/name@v1", A)
    fetch("owner/name", "model.safetensors", A)
    assert Lock().pins_without_files() == {}
