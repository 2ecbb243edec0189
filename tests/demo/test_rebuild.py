"""Rebuilding writes what the package ships, and says what is wrong when asked for something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tove_core.demo import shipped
from tove_core.demo.rebuild import rebuild, write_manifest
from tove_core.demo.shipped import ASSETS, asset, manifest, sha256
from tove_core.errors import ConfigError, WeightsError


def test_the_manifest_covers_every_shipped_file_and_only_those() -> None:
    files = {p.relative_to(ASSETS).as_posix(): p for p in ASSETS.rglob("*") if p.is_file()}
    del files["manifest.json"]
    assert set(files) == set(manifest())
    for name, entry in manifest().items():
        assert (sha256(files[name]), files[name].stat().st_size) == (entry["sha256"], entry["bytes"])


def test_what_is_shipped_is_small() -> None:
    own = [entry["bytes"] for name, entry in manifest().items() if not name.startswith("lm/")]
    assert sum(own) <= 3_500_000


def test_a_stage_is_rebuilt_into_an_empty_folder(tmp_path: Path) -> None:
    said: list[str] = []
    rebuild(tmp_path, stages=["tokenizer"], report=said.append)
    assert said
    entries = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert entries and all(name.startswith("tokenizer/") for name in entries)
    for name, entry in entries.items():
        assert entry["sha256"] == manifest()[name]["sha256"]


def test_the_manifest_takes_in_what_others_add(tmp_path: Path) -> None:
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text("{}")
    write_manifest(tmp_path)
    write_manifest(tmp_path)
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["lm/config.json"]


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'lmm'"):
        rebuild(tmp_path, stages=["clip", "lmm"])
    assert not list(tmp_path.iterdir())


def test_a_missing_asset_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    with pytest.raises(WeightsError, match="'clip'"):
        asset("clip")
