from __future__ import annotations

import io
import tarfile

import pytest

from tove_core.data.images import ImageArchive, ImageFolder, MissingImage, find_all, open_images
from tove_core.errors import DataError


def pack(path, contents, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_gives_each_member_its_own_bytes_without_unpacking(tmp_path):
    contents = {"images/a.png": b"first", "./b.png": b"x" * 1031, "c/" + "long" * 40 + ".png": b"third"}
    archive = open_images(pack(tmp_path / "i.tar", contents))
    assert isinstance(archive, ImageArchive)
    for name, content in contents.items():
        image = archive.find(name)
        assert image is not None
        assert image.read() == content
    assert archive.find("a.png") is None
    assert [file.name for file in tmp_path.iterdir()] == ["i.tar"]


def test_a_folder_gives_files_only(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"1")
    folder = open_images(tmp_path)
    assert isinstance(folder, ImageFolder)
    assert folder.find("sub/a.png") == tmp_path / "sub" / "a.png"
    assert folder.find("sub") is None


def test_missing_images_stand_for_themselves_until_they_are_read(tmp_path):
    (tmp_path / "here.png").write_bytes(b"1")
    found = find_all(open_images(tmp_path), ["here.png", "w.png", "w.png"])
    assert found["here.png"] == tmp_path / "here.png"
    assert found["w.png"] == MissingImage("w.png", str(tmp_path))
    with pytest.raises(DataError, match=r"image w\.png is not in "):
        found["w.png"].read()


def test_compressed_foreign_and_missing_archives_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a readable uncompressed tar archive"):
        open_images(pack(tmp_path / "i.tar.gz", {"a": b"1"}, "w:gz"))
    (tmp_path / "text.tar").write_text("not a tar" * 200)
    with pytest.raises(DataError, match="not a readable uncompressed tar archive"):
        open_images(tmp_path / "text.tar")
    with pytest.raises(DataError, match="does not exist"):
        open_images(tmp_path / "gone.tar")


def test_an_archive_that_shrank_is_noticed_when_it_is_read(tmp_path):
    path = pack(tmp_path / "i.tar", {"a.png": b"x" * 700})
    image = ImageArchive(path).find("a.png")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"ends before a\.png does"):
        image.read()
