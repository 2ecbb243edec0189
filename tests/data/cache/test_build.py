from __future__ import annotations

import io
import struct
import subprocess
import sys
import tarfile
import warnings
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from tove_core.data.cache import build
from tove_core.data.cache.folder import FeatureCache, LackingImages
from tove_core.data.cache.places import Places
from tove_core.data.cache.table import open_features
from tove_core.data.images import ImageArchive
from tove_core.data.parts import ImagePart, tiled
from tove_core.data.sample import load_image
from tove_core.errors import DataError
from tove_core.hub.images import read_image


def wanted(filler, *names):
    return [store.fingerprint for store in FeatureCache(filler.folder).stores() if not names or store.name in names]


def check(filler, images, names=("clip", "edges"), tolerance=0.0):
    """Compare what is read back with the encoder."""
    table = open_features(filler.folder, wanted(filler, *names), images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3)).tolist()
    found = table.gather(order)
    expected = type(filler)(filler.folder).encode([read_image(load_image(images[row])) for row in order], list(names))
    assert set(found) == set(names)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)
    return table


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 1e-3), ("float8", 0.07)])
def test_what_is_read_back_is_what_was_computed(filler, pictures, dtype, tolerance):
    report = filler.build(pictures, dtype=dtype, shard_bytes=200)
    assert report.computed == {"clip": 10, "edges": 10} and report.images == 11
    assert report.alike == 1 and report.present == 0 and not report.broken
    assert len(FeatureCache(filler.folder).stores()[0].shards) > 2
    table = check(filler, pictures, tolerance=tolerance)
    assert len(table) == 11
    assert table.gather([])["clip"].shape == (0, 3, 5)
    with pytest.raises(DataError, match="image 11 was asked of a table of 11 images"):
        table.gather([0, 11])


def test_a_second_build_computes_and_writes_nothing(filler, pictures):
    filler.build(pictures)
    files, calls = sorted(filler.folder.rglob("*")), len(filler.calls)
    report = filler.build(pictures)
    assert report.present == 11 and len(filler.calls) == calls
    assert sorted(filler.folder.rglob("*")) == files


def test_an_expert_that_joins_is_computed_alone(filler, pictures):
    filler.build(pictures, "clip", "edges")
    filler.calls.clear()
    filler.build(pictures, "clip", "edges", "depth")
    assert {names for _, names in filler.calls} == {("depth",)} and filler.computed == 10
    check(filler, pictures, ("clip", "edges", "depth"))


def test_images_that_join_are_computed_alone(filler, pictures):
    filler.build(pictures[:4])
    filler.calls.clear()
    report = filler.build(pictures)
    assert filler.computed == 6 and report.computed == {"clip": 6, "edges": 6}
    assert report.present == 5 and report.alike == 0
    check(filler, pictures)


def test_shares_of_several_processes_make_one_cache(filler, pictures):
    for rank in range(3):
        filler.build(pictures[rank::3])
    check(filler, pictures)


def test_bytes_arrays_and_archive_members_are_images_too(filler, pictures, tmp_path):
    packed = tmp_path / "images.tar"
    with tarfile.open(packed, "w") as tar:
        for path in pictures[:3]:
            tar.add(path, path.name)
    archive = ImageArchive(packed)
    members = [archive.find(path.name) for path in pictures[:3]]
    given = [*members, pictures[3].read_bytes(), read_image(pictures[4]).permute(1, 2, 0).numpy()]
    filler.build(given)
    assert filler.computed == 5
    check(filler, given[:3])
    filler.calls.clear()
    filler.build(pictures[:4])  # the same bytes elsewhere
    assert filler.computed == 0
    check(filler, pictures[:4])


def test_an_image_replaced_under_its_name_is_another_image(filler, pictures, tmp_path):
    path = tmp_path / "changing.png"
    path.write_bytes(pictures[0].read_bytes())
    filler.build([path])
    path.write_bytes(pictures[1].read_bytes() + b" ")
    with pytest.raises(DataError, match=r"'clip' of 1 of 1 images is not in .*first: .*changing.png.*tove cache build"):
        open_features(filler.folder, wanted(filler), [path])
    filler.build([path])
    check(filler, [path])


def test_places_are_known_without_reading_and_survive(filler, pictures):
    filler.build(pictures)
    digests, known = Places(filler.folder).known(pictures)
    assert known.all() and (digests[0] == digests[10]).all()
    read, faults = Places(filler.folder.parent / "none").digests(pictures)
    assert (read == digests).all() and not faults


def in_parts(pictures, folder):
    """Return two files and a member of an archive with their tiles, two of which are tiled again."""
    packed = folder / "images.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(pictures[2], pictures[2].name)
    images = tiled((*pictures[:2], ImageArchive(packed).find(pictures[2].name)), 3)
    return [*images, *tiled(images[2:4], 2)[1:]]


def test_parts_of_images_are_known_without_decoding_their_whole(filler, pictures, tmp_path, monkeypatch):
    images = in_parts(pictures, tmp_path)
    filler.build(images)
    check(filler, images)
    with monkeypatch.context() as patch:
        patch.setattr(ImagePart, "read", lambda part: pytest.fail(f"{part.key} was read"))
        digests, known = Places(filler.folder).known(images)
        assert known.all() and len(open_features(filler.folder, wanted(filler), images)) == len(images) == 39
        assert filler.builder(images).estimate().nbytes == 0
    assert (digests == Places(filler.folder.parent / "none").digests(images)[0]).all()


def test_a_part_is_another_one_with_another_box_or_when_its_whole_has_changed(filler, pictures, tmp_path):
    path = tmp_path / "changing.png"
    path.write_bytes(pictures[0].read_bytes())
    left, right = ImagePart(path, (0, 0, 0.5, 1)), ImagePart(path, (0.5, 0, 1, 1))
    filler.build([left])
    assert Places(filler.folder).known([left, right])[1].tolist() == [True, False]
    path.write_bytes(pictures[1].read_bytes() + b" ")
    assert not Places(filler.folder).known([left])[1].any()
    filler.build([left])
    check(filler, [left])


def test_a_cache_that_remembers_no_parts_is_read_and_one_more_build_computes_nothing_of_it(
    filler, pictures, tmp_path, monkeypatch
):
    images = in_parts(pictures, tmp_path)
    with monkeypatch.context() as patch:  # as caches were built before
        remember = Places.remember
        patch.setattr(Places, "remember", lambda self, one, d: isinstance(one, ImagePart) or remember(self, one, d))
        filler.build(images)
    assert Places(filler.folder).known(images)[1].sum() == 3
    check(filler, images)
    filler.calls.clear()
    report = filler.build(images)
    assert not filler.calls and report.present == len(images)
    assert Places(filler.folder).known(images)[1].all()


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 grey pixels in some hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * 20_001 * 500) for _ in range(40)) + packer.flush()
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_images_that_cannot_be_read_are_named_and_the_others_kept(filler, pictures, tmp_path):
    bad = {name: tmp_path / f"{name}.png" for name in ("gone", "empty", "bomb", "cut", "text")}
    bad["empty"].write_bytes(b"")
    bad["bomb"].write_bytes(bomb())
    bad["cut"].write_bytes(pictures[0].read_bytes()[:60])
    bad["text"].write_text("no picture")
    images = [*pictures[:2], *bad.values(), *pictures[2:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = filler.build(images)
    assert [name for name, _ in report.broken] == [str(path) for path in bad.values()]
    reasons = dict(zip(bad, (reason for _, reason in report.broken), strict=True))
    assert "no such file" in reasons["gone"] and "empty" in reasons["empty"] and "limit" in reasons["bomb"]
    assert report.computed["clip"] == 10
    check(filler, pictures)
    with pytest.raises(LackingImages, match=r"5 of 16 images is not in .*gone.png cannot be read") as lacking:
        open_features(filler.folder, wanted(filler), images)
    assert [images[row] for row in lacking.value.rows] == list(bad.values())
    with pytest.raises(DataError, match="4 of 15 images is not in"):
        open_features(filler.folder, wanted(filler), [image for image in images if image != bad["gone"]])


def test_an_error_of_the_encoder_keeps_what_was_written(filler, pictures):
    builder = filler.builder(pictures, shard_bytes=1)

    def failing(pixels, names):
        if filler.computed >= 8:
            raise RuntimeError("out of memory")
        return filler.encode(pixels, names)

    with pytest.raises(RuntimeError, match="out of memory"):
        builder.run(failing, read_image, batch_size=4)
    filler.calls.clear()
    filler.build(pictures)
    assert filler.computed == 2
    check(filler, pictures)


def test_a_feature_of_another_shape_than_promised_is_refused(filler, pictures):
    with pytest.raises(DataError, match=r"'clip' is \[4, 2, 5\], but \[4, 3, 5\] was promised"):
        filler.builder(pictures).run(
            lambda pixels, names: {"clip": torch.zeros(len(pixels), 2, 5)}, read_image, batch_size=4
        )


def test_what_the_disk_cannot_hold_is_refused_before_anything_is_computed(filler, pictures, monkeypatch):
    builder = filler.builder(pictures, dtype="float16")
    found = builder.estimate(processes=2)
    assert found.images == 22 and found.missing == {"clip": 22, "edges": 22}
    assert found.nbytes == 22 * (3 * 5 * 2 + 36 + 3 * 2 * 2 + 36)
    found.require_room(filler.folder)
    small = type("Usage", (), {"free": found.nbytes - 1})
    monkeypatch.setattr(build.shutil, "disk_usage", lambda folder: small)
    with pytest.raises(DataError, match=r"need 2,508 bytes in .* has 2,507 free; make room"):
        builder.estimate(processes=2).require_room(filler.folder)
    filler.build(pictures)
    assert filler.builder(pictures).estimate().nbytes == 0


def test_images_that_were_moved_are_found_by_their_contents_where_there_is_little_room(
    filler, pictures, tmp_path, monkeypatch
):
    filler.build(pictures)
    moved = [tmp_path / path.name for path in (*pictures[:3], Path("gone.png"), Path("new.png"))]
    for path, content in zip(moved[:3], pictures, strict=False):
        path.write_bytes(content.read_bytes())
    Image.new("RGB", (5, 5)).save(moved[4])
    builder = filler.builder(moved)
    assert builder.estimate().missing == {"clip": 5, "edges": 5}
    monkeypatch.setattr(build.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2 * 200}))
    assert not builder.estimate().fits
    builder.look()
    assert builder.estimate().missing == {"clip": 2, "edges": 2} and builder.estimate().fits
    report = builder.run(filler.encode, read_image)
    assert (report.present, report.computed, len(report.broken)) == (3, {"clip": 1, "edges": 1}, 1)
    assert Places(filler.folder).known(moved)[1].tolist() == [True, True, True, False, True]
    check(filler, [moved[0], moved[4]])


def test_two_processes_may_build_one_cache_at_once(filler, pictures):
    first, second = filler.builder(pictures, shard_bytes=1), filler.builder(pictures, shard_bytes=1)
    for builder in (first, second):  # both looked before either wrote
        builder.run(filler.encode, read_image, batch_size=3 if builder is first else 4)
    assert filler.computed == 20
    check(filler, pictures)


def test_a_folder_that_cannot_be_written_is_refused_in_one_sentence(filler, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "cache", Path("/proc/tove-cache")):
        if folder.parent.exists():
            filler.folder = folder
            with pytest.raises(DataError, match="cannot be written"):
                filler.builder(pictures)


SMALL_DISK = """
import os, runpy, subprocess, sys
from pathlib import Path
root, pictures = Path(sys.argv[1]), [Path(p) for p in sys.argv[3:]]
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", root], capture_output=True).returncode:
    sys.exit(77)
try:
    filler = runpy.run_path(sys.argv[2])["Filler"](root / "cache")
    import shutil
    from types import SimpleNamespace
    builder = filler.builder(pictures, shard_bytes=1)
    (root / "else").write_bytes(b"x" * (os.statvfs(root).f_bavail - 6) * os.statvfs(root).f_frsize)
    from tove_core.errors import DataError
    from tove_core.hub.images import read_image
    try:
        builder.run(filler.encode, read_image, batch_size=2)
    except DataError as error:
        print(error)
    (root / "else").unlink()
    done = filler.computed
    report = filler.build(pictures)
    print(report.computed["edges"], "of", len(pictures) - 1, "computed again")
finally:
    subprocess.run(["umount", root])
"""


def test_a_full_disk_stops_a_build_that_goes_on_when_there_is_room(tmp_path, pictures):
    conftest = Path(__file__).with_name("conftest.py")
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, tmp_path, conftest, *pictures], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 77:
        pytest.skip("mounting a small tmpfs needs privileges that this process has not")
    first, second = done.stdout.splitlines()
    assert "no space left on device" in first and "run the same command again" in first, done
    assert 0 < int(second.split()[0]) < 10, done


def test_nothing_is_written_by_reading(filler, pictures):
    filler.build(pictures)
    before = {path: path.stat().st_mtime_ns for path in filler.folder.rglob("*")}
    filler.folder.chmod(0o555)
    try:
        check(filler, pictures)
    finally:
        filler.folder.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in filler.folder.rglob("*")} == before


def test_images_in_memory_need_no_place(filler):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    filler.build([buffer.getvalue()])
    assert not list((filler.folder / "images").glob("*"))
    check(filler, [buffer.getvalue()])
