"""What became other than it was written, and who notices."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tove_core.data.cache.build import Builder
from tove_core.data.cache.care import (
    damaged_features,
    damaged_shards,
    every_shard,
    remove,
    require_ours,
    size_of,
    superfluous,
)
from tove_core.data.cache.folder import FeatureCache
from tove_core.data.cache.places import Places
from tove_core.data.cache.shards import FORMAT
from tove_core.data.cache.store import FeatureStore
from tove_core.data.cache.table import open_features
from tove_core.errors import DataError
from tove_core.hub.images import read_image


def flip(path: Path, *places: tuple[int, int]) -> None:
    content = bytearray(path.read_bytes())
    for at, bit in places:
        content[at] ^= 1 << bit
    path.write_bytes(content)


def store_of(folder: Path, name: str) -> FeatureStore:
    return next(store for store in FeatureCache(folder).stores() if store.name == name)


def read_all(folder: Path, pictures: list[Path], name: str = "clip") -> torch.Tensor:
    fingerprint = store_of(folder, name).fingerprint
    return open_features(folder, [fingerprint], pictures).gather(range(len(pictures)))[name]


@pytest.mark.parametrize("dtype", ["float16", "float8"])
def test_no_flipped_bit_reaches_a_reader(filler, pictures, dtype):
    filler.build(pictures, "clip", dtype=dtype)
    wanted = read_all(filler.folder, pictures)
    (path,) = store_of(filler.folder, "clip").files()
    refused = 0
    for at in range(0, path.stat().st_size, 3):
        flip(path, (at, at % 8))
        try:
            assert torch.equal(read_all(filler.folder, pictures), wanted)  # a name in the header that nobody needs
        except DataError as error:
            refused += 1
            assert path.name in str(error)
        flip(path, (at, at % 8))
    assert refused > path.stat().st_size // 3 - 30
    assert torch.equal(read_all(filler.folder, pictures), wanted)


def test_flipped_values_are_refused_with_the_file_and_the_cure_when_their_row_is_read(filler, pictures):
    filler.build(pictures, "clip")
    store = store_of(filler.folder, "clip")
    (shard,) = store.shards
    row = shard.entries["f"].begin + 4 * 15 * 4  # the fifth one
    flip(shard.path, (row + 3, 1), (row + 7, 1), (row + 30, 6))
    table = open_features(filler.folder, [store.fingerprint], pictures)
    rows = table.features["clip"][1]
    bad = int(np.flatnonzero(rows == 4)[0])
    others = [image for image in range(11) if rows[image] != 4]
    assert len(table.gather(others)["clip"]) == len(others)
    table.require_sound(others)
    with pytest.raises(DataError, match=rf"{shard.path.name} is damaged \(row 4 "):
        table.require_sound([*others, bad])
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{shard.path.name} is damaged \(row 4 .*tove cache verify --remove"):
            table.gather([others[0], bad])
    assert list(damaged_shards(FeatureCache(filler.folder))) == [shard.path]


def test_shards_without_checksums_are_read_and_held_to_their_name_as_a_whole(filler, pictures):
    filler.build(pictures, "clip")
    wanted, (path,) = read_all(filler.folder, pictures), store_of(filler.folder, "clip").files()
    before = {name: tensor for name, tensor in load_file(path).items() if name not in ("check", "keys_check")}
    path.unlink()
    save_file(before, path, {"format": FORMAT})
    old = path.rename(path.with_stem(hashlib.sha256(path.read_bytes()).hexdigest()))
    assert torch.equal(read_all(filler.folder, pictures), wanted)
    filler.calls.clear()
    filler.build(pictures, "clip")
    assert filler.computed == 0
    flip(old, (old.stat().st_size // 2, 3))
    with pytest.raises(DataError, match=rf"{old.name} is damaged \(its sha256 .*tove cache verify --remove"):
        read_all(filler.folder, pictures[:1])


def test_a_flipped_bit_in_the_images_digests_is_refused(filler, pictures):
    filler.build(pictures)
    (path,) = (filler.folder / "images").glob("*.safetensors")
    flip(path, (path.stat().st_size - 1, 0))
    with pytest.raises(DataError, match=f"{path.name} is damaged.*tove cache verify --remove"):
        Places(filler.folder)
    assert remove(list(damaged_shards(FeatureCache(filler.folder)))) > 0
    assert len(read_all(filler.folder, pictures)) == 11


def test_a_shard_of_another_feature_is_damage_that_verify_finds(filler, pictures):
    filler.build(pictures)
    clip, edges = (store_of(filler.folder, name) for name in ("clip", "edges"))
    moved = edges.files()[0].rename(clip.folder / edges.files()[0].name)
    assert list(damaged_shards(FeatureCache(filler.folder))) == [moved]
    assert list(damaged_shards(FeatureCache(filler.folder), whole=False)) == [moved]


def test_what_can_go_is_found_beside_a_damaged_shard(filler, pictures):
    builders = [filler.builder(pictures, ("clip",), shard_bytes=1) for _ in range(2)]
    for builder, batch in zip(builders, (3, 4), strict=True):  # both looked before either wrote
        builder.run(filler.encode, read_image, batch_size=batch)
    cache = FeatureCache(filler.folder)
    gone = superfluous(cache)
    bad = next(path for path in cache.stores()[0].files() if path not in gone)
    bad.write_bytes(bad.read_bytes()[:-1])
    with pytest.raises(DataError, match=bad.name):
        superfluous(cache)
    left = superfluous(cache, damaged=[bad])
    assert bad not in left and set(left) <= set(gone)
    assert size_of(left) == sum(path.stat().st_size for path in left) == remove(left)
    remove([bad])
    filler.build(pictures, "clip")
    assert len(read_all(filler.folder, pictures)) == 11


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"format": "tove-cache-1", "dtype": "float32"}'])
def test_a_damaged_description_is_damage_of_the_whole_feature_and_of_no_other(filler, pictures, content):
    filler.build(pictures, "clip", "edges")
    folder = store_of(filler.folder, "edges").folder
    (folder / "feature.json").write_bytes(content)
    cache = FeatureCache.existing(filler.folder)
    with pytest.raises(DataError, match=rf"{folder.name}.* with 'tove cache verify --remove'"):
        cache.stores()
    assert damaged_features(cache) == [folder] and not list(damaged_shards(cache))
    assert [path for path in every_shard(cache) if path.parent == folder] == []
    assert superfluous(cache) == []
    require_ours([folder])
    size = size_of([folder])
    assert remove([folder]) == size > 0 and not folder.exists()
    filler.calls.clear()
    filler.build(pictures, "clip", "edges")
    assert {names for _, names in filler.calls} == {("edges",)} and filler.computed == 10


@pytest.mark.parametrize("strange", ["model.py", "more/", ".feature.json"])
def test_a_folder_that_holds_what_no_cache_writes_is_not_taken_for_a_damaged_feature(tmp_path, strange):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "feature.json").write_text("{}")
    require_ours([folder])
    (folder / strange).mkdir() if strange.endswith("/") else (folder / strange).write_text("")
    with pytest.raises(DataError, match=f"no cache writes {strange.rstrip('/')} there"):
        require_ours([folder])


def test_an_estimate_of_what_is_planned_is_that_of_what_is_made_and_makes_nothing(filler, pictures, tmp_path):
    made = filler.builder(pictures, dtype="float16").stores
    cache = FeatureCache(tmp_path / "not" / "there")
    planned = {name: cache.planned(store.fingerprint, "float16") for name, store in made.items()}
    found = Builder(cache.folder, planned, pictures).estimate()
    assert not (tmp_path / "not").exists() and found.missing == {"clip": 11, "edges": 11} and found.free > 0
    assert found.nbytes == Builder(filler.folder, made, pictures).estimate().nbytes
    assert [store.folder.name for store in planned.values()] == [store.folder.name for store in made.values()]
    filler.build(pictures[:3], "clip", dtype="float16")
    there = {"clip": FeatureCache(filler.folder).planned(made["clip"].fingerprint, "float16")}
    assert Builder(filler.folder, there, pictures).estimate().missing == {"clip": 8}  # a copy is known when it is read
