from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from tove_core.data.cache.care import damaged_shards, every_shard, remove, superfluous
from tove_core.data.cache.folder import FeatureCache
from tove_core.data.cache.table import open_features
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.errors import DataError


@pytest.fixture
def cache(filler, pictures) -> FeatureCache:
    filler.build(pictures, "clip", "edges", "depth", shard_bytes=300)
    return FeatureCache(filler.folder)


def stored(cache, name: str) -> FeatureFingerprint:
    return next(store.fingerprint for store in cache.stores() if store.name == name)


def changed(fingerprint: FeatureFingerprint, **decides) -> FeatureFingerprint:
    return replace(fingerprint, decides={**fingerprint.decides, **decides})


def shifted(fingerprint: FeatureFingerprint, by: float) -> FeatureFingerprint:
    (name, given), *_ = fingerprint.statistics.items()
    mean = [value + by * std for value, std in zip(given["mean"], given["std"], strict=True)]
    return replace(fingerprint, statistics={name: {**given, "mean": mean}})


def test_another_fingerprint_is_refused_and_the_difference_named(cache, pictures):
    clip = stored(cache, "clip")
    for other, said in (
        (changed(clip, layer=-1), "layer is -2 there and -1 here"),
        (changed(clip, view="crop"), 'view is "squash" there and "crop" here'),
        (changed(clip, version="2.0"), 'version is absent there and "2.0" here'),
        (replace(clip, shape=(4, 5)), "tokens is 3 there and 4 here"),
    ):
        with pytest.raises(DataError, match=f"'clip' computed from something else: {said}.*tove cache build"):
            open_features(cache.folder, [other], pictures)


def test_a_feature_that_is_not_there_is_refused_with_what_to_do(cache, pictures):
    with pytest.raises(DataError, match=r"'ocr' is not in .*tove cache build"):
        open_features(cache.folder, [replace(stored(cache, "edges"), name="ocr", decides={"a": 1})], pictures)
    with pytest.raises(DataError, match="holds no feature cache"):
        open_features(cache.folder / "images", [stored(cache, "clip")], pictures)


def test_no_cache_is_advised_into_a_folder_that_holds_something_else(tmp_path):
    for name, wanted in (("absent", "run 'tove cache build"), ("mine", "give the folder of a cache")):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "config.yaml").write_text("")
        with pytest.raises(DataError, match=f"holds no feature cache; .*{wanted}"):
            FeatureCache.existing(tmp_path / name)


def test_the_same_expert_under_another_alias_is_found(cache, pictures):
    found = open_features(cache.folder, [replace(stored(cache, "edges"), name="lines")], pictures)
    assert set(found.gather([1])) == {"lines"}


def test_another_library_version_is_told_and_does_not_void_the_cache(cache, pictures):
    with pytest.warns(UserWarning, match=r'torch is "2.15.0" there and "9.9" here'):
        open_features(cache.folder, [replace(stored(cache, "clip"), versions={"torch": "9.9"})], pictures)


def test_measured_statistics_are_compared_up_to_rounding(cache, pictures):
    depth = stored(cache, "depth")
    open_features(cache.folder, [shifted(depth, 5e-4)], pictures)
    for other in (shifted(depth, 5e-3), shifted(depth, float("nan"))):
        with pytest.raises(DataError, match=r"statistics of output 'map' are .* calibrated on other images"):
            open_features(cache.folder, [other], pictures)
    with pytest.raises(DataError, match="fixed statistics are of"):
        open_features(cache.folder, [replace(depth, statistics={})], pictures)


def test_two_kinds_of_one_feature_lie_side_by_side_and_the_most_exact_whole_one_is_read(filler, cache, pictures):
    filler.build(pictures, "clip", dtype="float8")
    filler.build(pictures, "clip", dtype="float16")
    assert [store.dtype for store in cache.stores() if store.name == "clip"] == ["float32", "float16", "float8"]
    exact = open_features(cache.folder, [stored(cache, "clip")], pictures)
    assert exact.features["clip"][0].dtype == "float32"
    remove(exact.features["clip"][0].files()[:1])
    assert open_features(cache.folder, [stored(cache, "clip")], pictures).features["clip"][0].dtype == "float16"


def test_fingerprints_survive_json(cache):
    depth = stored(cache, "depth")
    again = FeatureFingerprint.from_json(json.loads(json.dumps(depth.as_json())))
    assert again.digest() == depth.digest() and not again.difference(depth)
    assert depth.digest() != changed(depth, layer=-1).digest()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "tove-cache-1", "dtype": "float16"}'])
def test_a_damaged_description_is_refused(cache, content):
    (cache.stores()[0].folder / "feature.json").write_text(content)
    with pytest.raises(DataError, match="build the cache again"):
        cache.stores()


def test_a_truncated_shard_is_refused_when_it_is_opened(cache, pictures):
    path = cache.stores()[0].files()[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{path.name} is damaged.*verify --remove"):
        open_features(cache.folder, [stored(cache, "clip")], pictures)
    assert list(damaged_shards(cache, whole=False)) == [path]


def test_a_flipped_bit_is_found_removed_and_computed_again(filler, cache, pictures):
    assert not list(damaged_shards(cache))
    path = next(store for store in cache.stores() if store.name == "edges").files()[1]
    content = bytearray(path.read_bytes())
    content[-40] ^= 4
    path.write_bytes(content)
    told = []
    found = list(damaged_shards(cache, progress=lambda done, total: told.append((done, total))))
    assert found == [path] and told[-1] == (len(every_shard(cache)),) * 2
    assert remove(found) == len(content)
    filler.calls.clear()
    filler.build(pictures, "clip", "edges", "depth")
    assert {names for _, names in filler.calls} == {("edges",)} and 0 < filler.computed < 10
    assert not list(damaged_shards(cache))


def test_a_shard_of_another_feature_is_refused(cache):
    clip, depth = cache.stores()[:2]
    depth.files()[0].rename(clip.folder / depth.files()[0].name)
    with pytest.raises(DataError, match="not those of feature 'clip'"):
        clip.shards  # noqa: B018


def test_features_that_are_not_kept_go_and_shards_that_others_repeat(filler, cache, pictures):
    kept = [store.folder.name for store in cache.stores()]
    assert superfluous(cache) == []
    gone = superfluous(cache, ["clip", kept[1]])
    assert gone == [cache.folder / kept[2]]
    with pytest.raises(DataError, match=r"ocr is not in .*which holds clip-"):
        superfluous(cache, ["clip", "ocr"])
    elsewhere = type(filler)(cache.folder.parent / "elsewhere")
    elsewhere.build(pictures[:4], "clip", batch=3, shard_bytes=1)  # as a process that looked before the others wrote
    for path in FeatureCache(elsewhere.folder).stores()[0].files():
        path.rename(cache.folder / kept[0] / path.name)
    doubled = superfluous(cache)
    assert doubled and all(path.parent.name == kept[0] for path in doubled)
    assert remove(doubled) > 0 and superfluous(cache) == []
    assert len(open_features(cache.folder, [stored(cache, "clip")], pictures)) == 11


def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(cache):
    folder = cache.stores()[0].folder
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    files = {
        "dead": folder / f".{host}-{dead.pid}-0a1b2c3d.tmp",
        "mine": folder / f".{host}-{os.getpid()}-0a1b2c3d.tmp",
        "other": folder / ".elsewhere-1-0a1b2c3d.tmp",
        "old": folder / ".elsewhere-2-0a1b2c3d.tmp",
    }
    for path in files.values():
        path.write_bytes(b"half a shard")
    os.utime(files["old"], (1, 1))
    assert set(superfluous(cache)) == {files["dead"], files["old"]}
    assert len(cache.stores()[0].shards)  # they are no shards
