"""Damaged caches, and commands that must write nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def config(toy: Any, tmp_path: Path) -> Path:
    """A run of one expert that is trained from the cache in `cache`."""
    model = {"clip": {"name": toy.clip}, "experts": ["toy-fine"], "decoder": {"name": toy.decoder, "max_new_tokens": 3}}
    training = {"steps": 3, "batch_size": 4, "warmup": 1, "cache": str(tmp_path / "cache")}
    whole = {"model": model, "data": {"path": str(toy.data)}, "training": training, "output": str(tmp_path / "run")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(whole))
    return tmp_path / "run.yaml"


@pytest.fixture
def cache(tove: Tove, config: Path) -> Path:
    out = config.parent / "cache"
    assert tove("cache", "build", config, "--out", out, "--quiet").code == 0
    return out


def test_training_and_evaluation_refuse_three_flipped_bits_of_a_cache_until_they_are_mended(
    tove: Tove, config: Path, cache: Path
) -> None:
    assert tove("train", config, "--quiet").code == 0
    (shard,) = cache.glob("toy-fine-*/*.safetensors")
    content = bytearray(shard.read_bytes())
    for part in (2, 3, 4):  # keys and checksums of twelve images lie behind their values
        content[len(content) // part] ^= 64
    shard.write_bytes(content)
    for words in (
        ("train", config, "--quiet", "--set", f"output={config.parent / 'second'}"),
        ("evaluate", config.parent / "run"),
        ("evaluate", config.parent / "run", "--cache", cache),
        ("contributions", config.parent / "run"),
    ):
        refused = tove(*words)
        assert str(shard) in refused.error and "'tove cache verify --remove'" in refused.error
    assert "removed 1 shards" in tove("cache", "verify", cache, "--remove", "--quiet").out
    assert "computed clip 0, toy-fine 12" in tove("cache", "build", config, "--out", cache, "--quiet").out
    assert tove("evaluate", config.parent / "run", "--cache", cache).code == 0


def test_a_truncated_shard_is_told_and_the_rest_shown_and_pruned(tove: Tove, config: Path, cache: Path) -> None:
    (shard,) = cache.glob("toy-fine-*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    told = f"1 damaged and left out ({shard.relative_to(cache)}); 'tove cache verify {cache} --remove'"
    shown = tove("cache", "info", cache)
    assert shown.code == 0 and "clip: 12 images" in shown.out and "toy-fine: 0 images" in shown.out
    assert told in shown.out
    pruned = tove("cache", "prune", cache)
    assert pruned.code == 0 and "freed 0 B" in pruned.out and told in pruned.out and shard.exists()
    refused = tove("train", config, "--quiet").error
    assert refused.count("is damaged") == 1 and str(shard) in refused
    gone = tove("cache", "prune", cache, "--keep", "clip")
    assert f"remove {shard.parent}" in gone.out and "damaged" not in gone.out and not shard.exists()


def test_a_damaged_description_is_told_and_removed_with_its_feature(tove: Tove, config: Path, cache: Path) -> None:
    (described,) = cache.glob("toy-fine-*/feature.json")
    content = bytearray(described.read_bytes())
    content[0] ^= 1
    described.write_bytes(content)
    folder = described.parent
    for command in ("info", "prune"):
        shown = tove("cache", command, cache)
        assert shown.code == 0 and f"1 damaged and left out ({folder.name})" in shown.out, shown
    assert "clip: 12 images" in tove("cache", "info", cache).out
    for words in (("cache", "build", config, "--out", cache, "--quiet"), ("train", config, "--quiet")):
        assert f"remove {folder} with 'tove cache verify --remove'" in tove(*words).error
    found = tove("cache", "verify", cache, "--quiet")
    assert f"damaged: {folder}" in found.out and "1 features of" in found.error and folder.exists()
    mended = tove("cache", "verify", cache, "--quiet", "--remove")
    assert mended.code == 0 and "removed 1 features" in mended.out and not folder.exists()
    assert "computed clip 0, toy-fine 12" in tove("cache", "build", config, "--out", cache, "--quiet").out
    assert tove("train", config, "--quiet").code == 0


def test_an_estimate_writes_nothing(tove: Tove, config: Path, cache: Path) -> None:
    fresh = config.parent / "nowhere" / "else"
    told = tove("cache", "build", config, "--out", fresh, "--estimate")
    assert told.code == 0 and "12 images; to compute: clip 12, toy-fine 12" in told.out
    assert not fresh.parent.exists()
    (folder,) = cache.glob("toy-fine-*")
    (folder / ".elsewhere-1-0a1b2c3d.tmp").write_bytes(b"left by a writer")
    before = {path: path.stat().st_mtime_ns for path in [cache, *cache.rglob("*")]}
    told = tove("cache", "build", config, "--out", cache, "--estimate", "--dtype", "toy-fine=float8")
    assert told.code == 0 and "to compute: clip 0, toy-fine 12" in told.out
    assert {path: path.stat().st_mtime_ns for path in [cache, *cache.rglob("*")]} == before


def test_a_dry_run_says_what_would_become_free(tove: Tove, cache: Path) -> None:
    (folder,) = cache.glob("toy-fine-*")
    told = tove("cache", "prune", cache, "--keep", "clip", "--dry-run").out.splitlines()
    assert told[0] == f"would remove {folder}" and told[1].startswith("would free ") and folder.exists()
    done = tove("cache", "prune", cache, "--keep", "clip").out.splitlines()
    assert done[1].removeprefix("freed ") == told[1].removeprefix("would free ") != "0 B"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(("--nnodes", 2), "--rdzv-endpoint HOST:PORT"), (("--nnodes", 2, "--node-rank", 2), "numbered 0 to 1")],
)
def test_machines_that_cannot_meet_are_refused(tove: Tove, config: Path, words: Any, wanted: str) -> None:
    assert wanted in tove("cache", "build", config, "--out", config.parent / "c", *words).error
    assert not (config.parent / "c").exists()
